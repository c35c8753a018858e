"""The near side of the contract: job.json out, the stage run and followed in its own environment, its manifest in."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import psutil

from tunesmith.artifacts import Artifact
from tunesmith.environments import home, interpreter
from tunesmith.errors import StageCrashed, TunesmithError, revive
from tunesmith.foreign import translate
from tunesmith.jobs import STAGES, Job
from tunesmith.store import Store, write_json
from tunesmith.worker import ERROR, EVENTS, JOB, LOG

_POLL_SECONDS = 0.2
_PASSED_ON = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
    "LD_LIBRARY_PATH",
)  # fmt: skip
_PASSED_ON_PREFIXES = (
    "HF_", "MODELSCOPE_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "TUNESMITH_", "VLLM_", "PYTORCH_",
)  # fmt: skip
_WISE = {
    # Idle threads that spin rob a busy machine: on two shared cores small operations took six times as long.
    "OMP_WAIT_POLICY": "PASSIVE",
    # QLoRA fragments the native allocator by up to a quarter; the bill's slack counts on segments that grow.
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}
"""Defaults the user's own variables win over."""


class Listener(Protocol):
    """Who follows a stage: its log lines, and its events."""

    def line(self, text: str) -> None: ...

    def event(self, event: Mapping[str, Any]) -> None: ...


class Silent:
    """Follows nothing."""

    def line(self, text: str) -> None: ...

    def event(self, event: Mapping[str, Any]) -> None: ...


class Outcome(NamedTuple):
    artifact: Artifact
    room: str
    seconds: float
    cached: bool


def run(job: Job, store: Store, listener: Listener | None = None, secrets: Mapping[str, str] | None = None) -> Outcome:
    """The job's artifact: from the store when it is done, else by running its stage to the end.

    Raises the error the stage reported, as the same class, or StageCrashed with where to look.
    """
    if manifest := store.manifest(job.room_name):
        return Outcome(manifest.artifact, job.room_name, manifest.wall_seconds, cached=True)
    began = time.monotonic()
    try:
        command = _command(job, store)
        code = _follow(command, store.room(job.room_name), listener or Silent(), secrets or {})
    except OSError as error:
        raise translate(error) or error from error
    manifest = store.manifest(job.room_name) if code == 0 else None
    if manifest is None:
        raise _failure(job, store.room(job.room_name), code)
    return Outcome(manifest.artifact, job.room_name, time.monotonic() - began, cached=False)


def _command(job: Job, store: Store) -> list[str]:
    """Writes job.json into the job's room and returns what starts its stage."""
    stage = STAGES[job.stage]
    words = {"python": str(interpreter(stage.environment)), "module": stage.module}
    room = store.open().room(job.room_name)
    room.mkdir(parents=True, exist_ok=True)
    (room / ERROR).unlink(missing_ok=True)
    write_json(room / JOB, {"job": job.model_dump(mode="json"), "store": str(store.root)})
    return [word.format(job=room / JOB, **words) for word in stage.launcher]


def _follow(command: list[str], room: Path, listener: Listener, secrets: Mapping[str, str]) -> int:
    """Runs the stage to its end and returns its exit code; whatever ends us ends its whole process tree."""
    events = _Tail(room / EVENTS)
    process = subprocess.Popen(
        command, cwd=room, env=stage_environment(secrets), text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    log = threading.Thread(target=_copy, args=(process.stdout, room / LOG, listener), daemon=True)
    log.start()
    try:
        while (code := process.poll()) is None:
            events.pass_on(listener)
            time.sleep(_POLL_SECONDS)
        events.pass_on(listener)
        return code
    finally:
        stop_tree(process.pid)
        log.join(timeout=5)


def _copy(lines: IO[str], path: Path, listener: Listener) -> None:
    with path.open("a") as log:
        for line in lines:
            log.write(line)
            log.flush()
            listener.line(line.rstrip("\n"))


class _Tail:
    """Reads whole lines appended to a file since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = path.stat().st_size if path.exists() else 0

    def pass_on(self, listener: Listener) -> None:
        if not self.path.exists():
            return
        with self.path.open() as file:
            file.seek(self.offset)
            while (line := file.readline()).endswith("\n"):
                self.offset = file.tell()
                listener.event(json.loads(line))


def stage_environment(secrets: Mapping[str, str]) -> dict[str, str]:
    """The child's environment, every variable of it on purpose."""
    passed = {k: v for k, v in os.environ.items() if k in _PASSED_ON or k.startswith(_PASSED_ON_PREFIXES)}
    fixed = {
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TUNESMITH_HOME": str(home()),
    }
    return {**_WISE, **passed, **fixed, **secrets}


def _failure(job: Job, room: Path, code: int) -> TunesmithError:
    """What the stage wrote down, or what its end looks like from outside."""
    path = room / ERROR
    if path.exists():
        said = json.loads(path.read_text())
        if said["error"] == "StageCrashed":
            return StageCrashed(f"{job.stage} crashed ({said['message']}): see {room / LOG}.")
        return revive(said["error"], said["message"])
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    advice = " (signal 9 is often the kernel, out of memory)" if code == -9 else ""
    return StageCrashed(f"{job.stage} {how}{advice}: see {room / LOG}.")


def stop_tree(pid: int, grace_seconds: float = 5.0) -> None:
    """Ends a process and all its descendants: asks first, then kills."""
    try:
        root = psutil.Process(pid)
        tree = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        _quietly(process.terminate)
    _, alive = psutil.wait_procs(tree, timeout=grace_seconds)
    for process in alive:
        _quietly(process.kill)


def _quietly(signal_it: Any) -> None:
    try:
        signal_it()
    except psutil.NoSuchProcess:
        return
