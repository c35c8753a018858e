"""vLLM behind vllm-router, kept by a process supervisor: a release is up, asked, judged, and only then announced."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from tunesmith import worker
from tunesmith.artifacts import Release
from tunesmith.data.rows import Row
from tunesmith.errors import EngineUnhealthy, GateFailed, ServeRefused
from tunesmith.gate import judge_served
from tunesmith.jobs import ServeJob
from tunesmith.serving import endpoint, ports
from tunesmith.serving import program as programs
from tunesmith.serving.control import KEY, Supervisor, only_one
from tunesmith.serving.endpoint import ServedState
from tunesmith.serving.router import Router
from tunesmith.stages.metrics import score_answers
from tunesmith.stages.serve.ask import Asked, ask
from tunesmith.stages.serve.command import engine_program, port_of, served_name
from tunesmith.stages.serve.health import EngineLog, wait_until_healthy
from tunesmith.stages.serve.heldout import held_out
from tunesmith.store import Store
from tunesmith.worker import Made, Room


class Engine(NamedTuple):
    """A healthy engine, not yet in the router."""

    url: str
    start_seconds: float
    log: EngineLog


class Proof(NamedTuple):
    """What a new engine showed of itself."""

    score: float
    answers: tuple[tuple[str, str], ...]
    metrics: dict[str, float]


def serve(job: ServeJob, room: Room) -> Made:
    """The release of the job's model, live at its endpoint, in place of what was served before.

    Adopts the release when it is up already. Until the new engine is judged, the old release serves on. Raises
    PortBusy, ServeRefused, EngineUnhealthy, EnvironmentMissing, and GateFailed when the endpoint answers worse than
    the recipe's gate allows.
    """
    key = api_key(job, os.environ)
    with only_one(room.store):
        supervisor = Supervisor(room.store)
        state = endpoint.current(room.store)
        _check_key(job, supervisor, key)
        if state and state.release.fingerprint == job.fingerprint and endpoint.is_alive(room.store, state):
            print(f"{state.release.name} answers already at {state.release.endpoint}: adopted.", flush=True)
        else:
            with _old_release_kept(job, state, supervisor):
                state = _put_up(job, room, supervisor, key)
        endpoint.sweep(supervisor, keep=(state.engine,))
    return Made(state.release, state.metrics)


def api_key(job: ServeJob, environment: Mapping[str, str]) -> str | None:
    """The key the recipe wants, None when it wants none. Raises ServeRefused naming the unset variable."""
    name = job.spec.api_key_env
    if not name:
        return None
    if key := environment.get(name):
        return key
    raise ServeRefused(f"serve.api_key_env names {name}, which is not set: export {name} with the endpoint's API key.")


def _check_key(job: ServeJob, supervisor: Supervisor, key: str | None) -> None:
    """A running endpoint keeps the key it was started with; one that serves nothing makes way for the new key."""
    if not supervisor.is_running() or supervisor.key() == key:
        return
    if any(state.is_up for state in supervisor.states()):
        raise ServeRefused(
            f"The endpoint runs with another API key than {job.spec.api_key_env or 'none'}: "
            "`tunesmith stop` it, then run the same command."
        )
    supervisor.shut_down()


def _put_up(job: ServeJob, room: Room, supervisor: Supervisor, key: str | None) -> ServedState:
    router = Router(supervisor, job.spec.host, job.spec.port)
    if not router.is_ours() and (objection := ports.objection(job.spec.host, job.spec.port)):
        raise objection
    supervisor.start(_supervisor_environment(os.environ, job.spec.api_key_env, key))
    engine = _start_engine(job, room.store, supervisor)
    proof = _prove(job, room, engine, key)
    router.switch_to(engine.url)
    state = _state(job, router, engine, proof)
    endpoint.announce(room.store, state)
    print(f"{state.release.name} answers at {state.release.endpoint}.", flush=True)
    return state


def _start_engine(job: ServeJob, store: Store, supervisor: Supervisor) -> Engine:
    """A healthy engine of the job: one that an interrupted run left starting or ready is taken over."""
    began = time.monotonic()
    program = engine_program(job, store, ports.free_port())
    log = EngineLog(programs.log_file(supervisor.folder, program.name))
    started = supervisor.state(program.name)
    left = programs.read(supervisor.folder, program.name)
    if started and started.is_up and left and left == engine_program(job, store, port_of(left)):
        program = left
        print(f"Taking over {program.name}, which an earlier run started.", flush=True)
    else:
        started = supervisor.put(program)
    url = f"http://127.0.0.1:{port_of(program)}"
    wait_until_healthy(supervisor, started, url, log, job.spec.start_seconds)
    return Engine(url, time.monotonic() - began, log)


def _prove(job: ServeJob, room: Room, engine: Engine, key: str | None) -> Proof:
    """What the engine answers to the held-out rows; raises GateFailed by how much that is too little."""
    rows, tuned_score = held_out(job, room.store)
    smoke = _ask(job, engine, rows[:1], key)
    print(f"smoke question answered: {smoke.answers[0]!r}", flush=True)
    asked = _ask(job, engine, rows, key)
    score = score_answers(job.evaluate.metric, asked.answers, [row[-1]["content"] for row in rows])
    metrics = {
        "start_seconds": engine.start_seconds,
        "served_score": score,
        "tokens_per_second": asked.tokens_per_second,
        "tuned_score": tuned_score,
    }
    room.emit("metrics", **metrics)
    if objection := judge_served(job.evaluate.gate, tuned_score, score):
        raise GateFailed(f"{objection} What was served before still is.")
    return Proof(score, ((rows[0][-2]["content"], smoke.answers[0]),), metrics)


def _ask(job: ServeJob, engine: Engine, rows: Sequence[Row], key: str | None) -> Asked:
    """The rows through the engine; one that breaks off is quoted from its log."""
    try:
        return ask(engine.url, served_name(job), rows, job.evaluate.max_new_tokens, key)
    except EngineUnhealthy as error:
        engine.log.pass_on()
        raise EngineUnhealthy(f"{error.message} ({engine.log.last_words()}): see {engine.log.path}.") from error


def _state(job: ServeJob, router: Router, engine: Engine, proof: Proof) -> ServedState:
    release = Release(
        fingerprint=job.fingerprint,
        name=f"{job.name}-{job.fingerprint}",
        served_name=served_name(job),
        endpoint=f"{router.url}/v1",
        score=proof.score,
        answers=proof.answers,
    )
    return ServedState(
        release=release,
        host=job.spec.host,
        port=job.spec.port,
        engine_url=engine.url,
        metrics=proof.metrics,
        started_at=endpoint.now(),
    )


@contextmanager
def _old_release_kept(job: ServeJob, old: ServedState | None, supervisor: Supervisor) -> Iterator[None]:
    """Starts from what was announced, and returns to it on failure; a supervisor left with no engine ends."""
    ours = endpoint.engine_name(job.fingerprint)
    _return_to(old, supervisor)
    endpoint.sweep(supervisor, keep=(ours, old.engine) if old else (ours,))
    try:
        yield
    except BaseException:
        with suppress(EngineUnhealthy):
            _return_to(old, supervisor)
        supervisor.remove(ours)
        if not any(state.name.startswith("engine-") and state.is_up for state in supervisor.states()):
            supervisor.shut_down()
        raise


def _return_to(old: ServedState | None, supervisor: Supervisor) -> None:
    """Points the router at the announced engine alone, if that is still there: a switch may have broken off."""
    engine = supervisor.state(old.engine) if old else None
    if old and engine and engine.is_up:
        Router(supervisor, old.host, old.port).switch_to(old.engine_url)


def _supervisor_environment(ours: Mapping[str, str], key_env: str | None, key: str | None) -> dict[str, str]:
    kept = {name: value for name, value in ours.items() if name not in (KEY, key_env)}
    return {**kept, KEY: key} if key else kept


if __name__ == "__main__":
    worker.main(serve)
