"""The stages that need no environment of their own: quick, made here, kept in the store like all others."""

import shutil
import time

from tunesmith import hardware, runner
from tunesmith.artifacts import Artifact, Evaluation, ModelSource, Plan, Resolved, Score, Simulation
from tunesmith.conclude import conclude
from tunesmith.environments import health
from tunesmith.errors import EnvironmentMissing, ModelError, UnknownArchitecture
from tunesmith.gate import judge
from tunesmith.memory.confirm import simulate_job
from tunesmith.memory.estimate import check_disk, estimate
from tunesmith.memory.plan import launchable
from tunesmith.memory.unknown import Simulate
from tunesmith.pipeline import evaluation_fingerprint, lay_out
from tunesmith.runner import Outcome
from tunesmith.specs.recipe import Recipe
from tunesmith.store import Store


def settle(store: Store, stage: str, artifact: Artifact, parents: tuple[Artifact, ...], began: float) -> Outcome:
    """The artifact with a room of its own in the store; `cached` when that room was there before.

    `began` is a time.monotonic() reading from the stage's start.
    """
    room_name = f"{stage}-{artifact.fingerprint}"
    if before := store.manifest(room_name):
        return Outcome(before.artifact, room_name, before.wall_seconds, cached=True)
    seconds = time.monotonic() - began
    store.open().room(room_name).mkdir(exist_ok=True)
    conclude(store, room_name, artifact, environment="main", seconds=seconds, parents=parents, with_children=False)
    return Outcome(artifact, room_name, seconds, cached=False)


def estimate_into(store: Store, recipe: Recipe, resolved: Resolved) -> Outcome:
    """The plan a run on this machine follows.

    Raises DoesNotFit with the bill and the nearest plan that would fit, DiskFull, or RecipeError for what no run
    starts.
    """
    began = time.monotonic()
    asked = launchable(recipe)
    plan = estimate(asked, resolved, hardware.detect(), simulator(store, asked, resolved.model))
    free = shutil.disk_usage(store.open().root).free
    check_disk(plan.disk_bytes, free + _bytes_made(store, recipe, resolved, plan))
    return settle(store, "estimate", plan, (resolved,), began)


def simulator(store: Store, recipe: Recipe, source: ModelSource) -> Simulate:
    """Simulates a plan's step in the train environment; what was simulated before is found in the store.

    It raises EnvironmentMissing where there is none, and what the simulate stage raises.
    """

    def simulate(plan: Plan) -> Simulation:
        if reason := health("train"):
            raise EnvironmentMissing(reason)
        if plan.step.parallel.strategy != "single" or plan.step.parallel.offload != "none":
            raise ModelError("A step that is spread or offloaded cannot be simulated: rely on the estimate.")
        try:
            found = runner.run(simulate_job(recipe, source, plan), store).artifact
        except UnknownArchitecture as error:
            if recipe.model.trust_remote_code:
                raise ModelError("A repo's own code is not simulated: rely on the estimate.") from error
            raise
        assert isinstance(found, Simulation)
        return found

    return simulate


def _bytes_made(store: Store, recipe: Recipe, resolved: Resolved, plan: Plan) -> int:
    """What finished rooms of this very run hold already: they are not made again."""
    rooms = [store.manifest(job.room_name) for _, job in lay_out(recipe, resolved, plan)]
    return sum(entry.size for manifest in rooms if manifest for entry in manifest.files)


def judge_into(store: Store, recipe: Recipe, scores: dict[str, Score]) -> Outcome:
    """The gate's word on the candidates' scores."""
    began = time.monotonic()
    objections = judge(recipe.evaluate.gate, scores)
    evaluation = Evaluation(
        fingerprint=evaluation_fingerprint(recipe, scores), scores=scores, objections=tuple(objections)
    )
    return settle(store, "gate", evaluation, tuple(scores.values()), began)
