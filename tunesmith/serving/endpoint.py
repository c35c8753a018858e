"""What a store serves: proving it alive, showing it, taking it down."""

import os
from collections.abc import Collection
from datetime import UTC, datetime

import httpx

from tunesmith.artifacts import Release
from tunesmith.jobs import ServeJob
from tunesmith.serving import program as programs
from tunesmith.serving.control import ProgramState, Supervisor, only_one
from tunesmith.serving.router import KEY_CHECKER, ROUTER, Router
from tunesmith.specs.spec import Spec
from tunesmith.store import MANIFEST, Store, write_atomically

CURRENT = "current.json"


class ServedState(Spec):
    """What is served: written when the switch to it is complete."""

    release: Release
    host: str
    port: int
    engine_url: str
    """Where the engine listens on loopback, behind the router."""
    metrics: dict[str, float]
    """What was measured when it was put up."""
    started_at: str
    """UTC, ISO 8601."""

    @property
    def engine(self) -> str:
        """The engine's name under the supervisor."""
        return engine_name(self.release.fingerprint)


class EndpointStatus(Spec):
    """For `tunesmith status`."""

    served: ServedState
    trouble: str | None
    """None when it is alive, else the reason it is not."""
    programs: tuple[ProgramState, ...]


def engine_name(fingerprint: str) -> str:
    return f"engine-{fingerprint}"


def current(store: Store) -> ServedState | None:
    """What was last put up and not stopped; whether it is alive is another question."""
    try:
        return ServedState.model_validate_json((store.root / "serve" / CURRENT).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def announce(store: Store, state: ServedState) -> None:
    """Records what is served from now on."""
    write_atomically(store.root / "serve" / CURRENT, state.model_dump_json(indent=1).encode())


def trouble(store: Store, state: ServedState) -> str | None:
    """None when the endpoint answers, with that release's engine alone behind it, else the reason."""
    supervisor = Supervisor(store)
    for name in (state.engine, ROUTER):
        program = supervisor.state(name)
        if program is None or program.state != "RUNNING":
            return f"{name} is {program.state.lower() if program else 'not there'}"
    try:
        workers = Router(supervisor, state.host, state.port).workers()
        names = served_names(state.release.endpoint, supervisor.key())
    except httpx.HTTPError as error:
        return f"{state.release.endpoint} does not answer as it should ({error})"
    if workers != (state.engine_url,):
        return f"the router sends requests to {', '.join(workers) or 'nobody'}, not to {state.engine_url}"
    return None if state.release.served_name in names else f"it serves {', '.join(names)}, not the release"


def is_alive(store: Store, state: ServedState) -> bool:
    return trouble(store, state) is None


def served_names(endpoint: str, key: str | None) -> tuple[str, ...]:
    """Model names an OpenAI endpoint offers. Raises httpx.HTTPError when it does not answer with them."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    reply = httpx.get(f"{endpoint}/models", headers=headers, timeout=30, trust_env=False).raise_for_status()
    return tuple(model["id"] for model in reply.json()["data"])


def forget_if_dead(job: ServeJob, store: Store) -> None:
    """Makes a finished serve job undone when its release is not what answers now.

    Other artifacts are files and stay true; only the endpoint itself proves a release, under the key of today.
    """
    state = current(store)
    key = os.environ.get(job.spec.api_key_env or "")
    ours = state is not None and state.release.fingerprint == job.fingerprint and is_alive(store, state)
    if not ours or (key and key != Supervisor(store).key()):
        (store.room(job.room_name) / MANIFEST).unlink(missing_ok=True)


def status(store: Store) -> EndpointStatus | None:
    """What is served and how it is, None when nothing is."""
    state = current(store)
    if state is None:
        return None
    return EndpointStatus(served=state, trouble=trouble(store, state), programs=Supervisor(store).states())


def stop(store: Store) -> list[str]:
    """Takes the endpoint down: engines drain, then the router and the supervisor end. Returns what was stopped.

    A second call finds nothing to do. Raises ServeRefused while a run is putting a release up.
    """
    if not (store.root / "serve").exists():
        return []
    with only_one(store, wait=False):
        supervisor = Supervisor(store)
        running = {state.name for state in supervisor.states() if state.is_up}
        names = sorted(programs.written(supervisor.folder), key=_stopping_order)
        for name in names:
            supervisor.remove(name)
        supervisor.shut_down()
        (store.root / "serve" / CURRENT).unlink(missing_ok=True)
    return [name for name in names if name in running]


def sweep(supervisor: Supervisor, keep: Collection[str]) -> None:
    """Ends every other engine: what an interrupted run or an earlier release left."""
    for name in programs.written(supervisor.folder):
        if name.startswith("engine-") and name not in keep:
            supervisor.remove(name)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _stopping_order(name: str) -> int:
    """Engines first, so that open streams end through the router."""
    return {ROUTER: 1, KEY_CHECKER: 2}.get(name, 0)
