"""Facts without a run: what would be done, what it would cost, what is there already."""

from typing import Any, NamedTuple

from tunesmith import hardware, runner
from tunesmith.artifacts import ModelSource, Plan, Resolved, Simulation
from tunesmith.errors import ModelError, RecipeError, UnknownArchitecture
from tunesmith.ledger import Entry, entries
from tunesmith.memory.confirm import Confirmation, simulate_job
from tunesmith.memory.estimate import to_json
from tunesmith.memory.plan import check_shares, make_plan, make_ready, on_smallest_card
from tunesmith.memory.solve import Solution, solve
from tunesmith.memory.unknown import Simulate
from tunesmith.nearside import estimate_into, simulator
from tunesmith.pipeline import lay_out
from tunesmith.question import Question
from tunesmith.resolve import resolve
from tunesmith.serving import endpoint
from tunesmith.specs.recipe import Recipe
from tunesmith.store import Store


class Planned(NamedTuple):
    """A run laid out, nothing executed."""

    source: ModelSource
    jobs: list[dict[str, Any]]
    """Per job: stage, fingerprint, room, and whether it is done."""
    plan: Plan

    def facts(self) -> dict[str, Any]:
        model = {"repo": self.source.repo, "commit": self.source.commit, "bytes": self.source.total_bytes}
        return {"model": model, "jobs": self.jobs, "estimate": to_json(self.plan)}


class Estimated(NamedTuple):
    """A plan, and what had to be found out beside it."""

    question: Question
    plan: Plan
    card: str | None = None
    """The GPU it is for, where none was named and none is here."""
    solved: Solution | None = None
    confirmation: Confirmation | None = None
    """Where it was asked for: the bill of training and evaluation beside their simulation."""

    def notes(self) -> list[str]:
        """What had to be found out, in sentences."""
        found = [f"No GPU here and none named: planned for {self.card}."] if self.card else []
        if self.solved:
            unknown, value = self.solved.unknown, self.solved.value
            found.append(f"{unknown} {value} is the {'least' if unknown == 'gpus' else 'largest'} that fits.")
        if self.confirmation:
            found.append(self.confirmation.summary)
        return found


def estimate(question: Question, unknown: str | None = None, store: Store | None = None) -> Estimated:
    """The plan with its bill, and the largest value of `unknown` that fits; raises DoesNotFit when there is none.

    The steps of an architecture that is not known are simulated in the store, where one is given and nothing is solved.
    """
    recipe, source, machine = question
    simulate = _lenient(simulator(store, recipe, source)) if store else None
    if machine is None:
        found = hardware.detect()
        if found.device == "cpu" and unknown:
            raise RecipeError("--solve needs to know the hardware: give --gpu NAME, or --gpus and --gpu-memory.")
        if found.device == "cpu":
            return Estimated(question, *on_smallest_card(recipe, source, simulate))
        machine = found
    if unknown is None:
        return Estimated(question, make_plan(recipe, source, machine, simulate))
    case, usable = make_ready(recipe, source, machine)
    if unknown != "gpus":
        check_shares(recipe, len(usable.devices))
    solved = solve(unknown, case, usable)
    return Estimated(question, solved.plan, solved=solved)


def _lenient(simulate: Simulate) -> Simulate:
    """An estimate may be asked of a model that the installed libraries do not have yet; a run could not train it."""

    def simulated(plan: Plan) -> Simulation:
        try:
            return simulate(plan)
        except UnknownArchitecture as error:
            raise ModelError(error.message) from error

    return simulated


def confirmed(found: Estimated, store: Store) -> Estimated:
    """The same with step and evaluation simulated in the train environment; raises what the simulate stage raises."""
    job = simulate_job(found.question.recipe, found.question.source, found.plan)
    simulation = runner.run(job, store).artifact
    assert isinstance(simulation, Simulation)
    billed, judged = found.plan.allocated("train"), found.plan.allocated("evaluate")
    return found._replace(confirmation=Confirmation(billed, simulation, judged))


def plan(recipe: Recipe, store: Store) -> Planned:
    """Every job of a run; raises DoesNotFit when no plan fits."""
    resolved, planned = _plan(recipe, store)
    jobs = [
        {"stage": name, "fingerprint": job.fingerprint, "room": job.room_name, "done": _done(store, job.room_name)}
        for name, job in lay_out(recipe, resolved, planned)
    ]
    return Planned(resolved.model, jobs, planned)


def ledger(store: Store) -> list[Entry]:
    """What was predicted for every stage that ran in the store, and what was seen."""
    return list(entries(store))


def status(store: Store) -> dict[str, Any]:
    """What is served, and every finished room, newest first."""
    rooms = [
        {
            "room": name,
            "finished_at": manifest.finished_at,
            "seconds": manifest.wall_seconds,
            "bytes": sum(entry.size for entry in manifest.files),
        }
        for name, manifest in store.manifests()
    ]
    served = endpoint.status(store)
    return {"store": str(store.root), "served": served.model_dump(mode="json") if served else None, "rooms": rooms}


def _plan(recipe: Recipe, store: Store) -> tuple[Resolved, Plan]:
    resolved = resolve(recipe, store).artifact
    assert isinstance(resolved, Resolved)
    planned = estimate_into(store, recipe, resolved).artifact
    assert isinstance(planned, Plan)
    return resolved, planned


def _done(store: Store, room_name: str) -> bool:
    return store.manifest(room_name) is not None
