"""The far side of the contract: job.json in, work, manifest.json out, and an exit code that says what happened.

A stage module is one verb and two lines:

    if __name__ == "__main__":
        worker.main(merge)
"""

import ctypes
import fcntl
import json
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from tunesmith.artifacts import Artifact
from tunesmith.conclude import conclude, inputs
from tunesmith.errors import TunesmithError
from tunesmith.foreign import translate
from tunesmith.jobs import STAGES, AnyJob
from tunesmith.store import OUT, Store, write_json

CRASHED = 1
EVENTS, LOG, ERROR, JOB = "events.jsonl", "stage.log", "error.json", "job.json"
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Room:
    """A stage's own folder: `out/` becomes the artifact, `scratch/` survives a kill and goes when the room is done."""

    path: Path
    store: Store

    @property
    def out(self) -> Path:
        return _made(self.path / OUT)

    @property
    def scratch(self) -> Path:
        return _made(self.path / "scratch")

    def emit(self, kind: str, **fields: Any) -> None:
        """Appends one event: `progress` (done, total, unit), `metrics`, `memory`, `note` (text).

        Progress in bytes, unit `B`, also says `rate`, bytes a second, and over how many `connections`.
        """
        line = json.dumps({"event": kind, "time": round(time.time(), 3), **fields}, default=float)
        with (self.path / EVENTS).open("a") as file:
            file.write(line + "\n")


@dataclass(frozen=True)
class Made:
    """What a verb returns: the artifact, and figures for its manifest."""

    artifact: Artifact
    metrics: dict[str, float] = field(default_factory=dict)


_J = TypeVar("_J")


def main(work: Callable[[_J, Room], Made]) -> None:
    """Runs one stage for the job file named on the command line and exits 0, 75, 78, or as a crash."""
    path = Path(sys.argv[1])
    die_with_parent()
    try:
        with _only_one_in(path.parent):
            _work(work, path)
    except Exception as error:
        sys.exit(_report(error, path.parent))


def die_with_parent(how: signal.Signals = signal.SIGKILL) -> None:
    """Asks Linux to signal this process when the one that started it ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, how)


def _work(work: Callable[[Any, Room], Made], path: Path) -> None:
    content = json.loads(path.read_text())
    store = Store(Path(content["store"]))
    job = TypeAdapter(AnyJob).validate_python(content["job"])
    if store.manifest(path.parent.name):
        return
    parents = inputs(job)
    for parent in parents:
        store.verify(parent)
    room = Room(path.parent, store)
    began = time.monotonic()
    made = work(job, room)
    plan = getattr(job, "plan", None)
    conclude(
        store,
        path.parent.name,
        made.artifact,
        environment=STAGES[job.stage].environment,
        seconds=time.monotonic() - began,
        parents=parents,
        metrics=made.metrics,
        predicted=plan.interval("train")[1] if plan else None,
    )
    shutil.rmtree(room.path / "scratch", ignore_errors=True)


@contextmanager
def _only_one_in(room: Path) -> Iterator[None]:
    """Holds the room; a second process for the same job waits here and then finds it done."""
    with (room / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another run is at work on the same job: waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _report(error: Exception, room: Path) -> int:
    """Writes error.json and returns the exit code; an unknown error keeps its trace in the log."""
    ours = translate(error)
    if not isinstance(error, TunesmithError):
        traceback.print_exc()
    if ours is None:
        write_json(room / ERROR, {"error": "StageCrashed", "message": f"{type(error).__name__}: {error}"})
        return CRASHED
    try:
        write_json(room / ERROR, {"error": type(ours).__name__, "message": ours.message})
    except OSError:
        print(f"error: {ours.message}", flush=True)
    return ours.exit_code


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
