"""What an engine leaves behind when it dies at a bad moment: worker processes that nobody stops.

Each program leads a process group of its own. Its leader is noted before it starts, so that the next start, or the
removal, can end whatever of that group is still there.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from tunesmith.store import write_json

_GRACE_SECONDS = 5.0


def note_leader(file: Path) -> None:
    """Writes down this process as the leader of the program's group."""
    write_json(file, {"pid": os.getpid(), "created": psutil.Process().create_time()})


def end_remnants(file: Path) -> None:
    """Kills what is left of the group noted in `file`, and waits until it is gone."""
    try:
        leader = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return
    if not _is_reused(leader["pid"], leader["created"]):
        _kill(leader["pid"])
    file.unlink(missing_ok=True)


def _is_reused(pid: int, created: float) -> bool:
    """Whether that number belongs to another process by now."""
    try:
        return abs(psutil.Process(pid).create_time() - created) > 1
    except psutil.NoSuchProcess:
        return False


def _kill(group: int) -> None:
    for pid in _members(group):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _GRACE_SECONDS
    while any(_members(group)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _members(group: int) -> Iterator[int]:
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getpgid(pid) == group and pid != os.getpid() and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                yield pid
