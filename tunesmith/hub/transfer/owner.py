"""Who writes a partial file: a mark beside it, made by one process alone, with a counter that shows it lives.

    <name>.part.owner    one line of JSON: who, and a counter that moves every few seconds

Nobody compares clocks and nothing is locked, so it holds on a network disk too. A mark whose counter stands still
while somebody watches belongs to a dead process, and so does one of a process of this host that is gone.
"""

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.hub.transfer.journal import boot_tag
from tunesmith.hub.transfer.patience import Patience

_WIDTH = 256
"""Bytes of a mark: rewritten in place, never longer or shorter."""


class Owner:
    """This process's claim to one partial file. Every method may raise OSError."""

    def __init__(self, part: Path, patience: Patience) -> None:
        self.path = part.with_name(part.name + ".owner")
        self._patience = patience
        self._token = secrets.token_hex(8)
        self._fd = -1
        self._writing = threading.Lock()
        """Held while the descriptor is used or closed: its number may be another file's a moment later."""
        self._beats, self._sure_until = 0, 0.0
        self._watched: tuple[Any, float] = (None, 0.0)
        self._ended = threading.Event()

    def take(self) -> bool:
        """Whether the partial is this process's now; a mark that belongs to nobody alive is removed on the way.

        Called again and again by who waits: it judges the other's counter by what it saw before.
        """
        if self._create():
            return True
        mark = _read(self.path)
        if mark is not None and not self._is_dead(mark):
            return False
        self._remove(mark)
        return self._create()

    def holds(self) -> bool:
        """Whether the mark is still this process's: asked before a write, answered from memory between two beats."""
        if self._fd < 0:
            return False
        if _now() < self._sure_until:
            return True
        return self._beat()

    def give_up(self) -> None:
        """Takes the mark away, when it is still this process's."""
        self._ended.set()
        with self._writing:
            if self._fd < 0:
                return
            fd, self._fd = self._fd, -1
            os.close(fd)
        # Torn: this process made it, and the disk was too full to say so.
        if self._is_mine() or _read(self.path) == {}:
            self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False
        self._ended = threading.Event()
        self._write()
        if not self._beat():
            return False
        threading.Thread(target=self._live, args=(self._ended,), name="owner", daemon=True).start()
        return True

    def _live(self, ended: threading.Event) -> None:
        while not ended.wait(self._patience.beat_s):
            try:
                if not self._beat():
                    return
            except OSError:
                # The disk does not answer for now; a writer that needs to know asks by itself.
                continue

    def _beat(self) -> bool:
        asked = _now()
        if self._ended.is_set() or not self._is_mine():
            return False
        self._beats += 1
        self._write()
        # Well before another process could think this one dead.
        self._sure_until = asked + min(2 * self._patience.beat_s, self._patience.owner_s / 2)
        return True

    def _is_mine(self) -> bool:
        return (_read(self.path) or {}).get("token") == self._token

    def _write(self) -> None:
        mark = {"host": host_id(), "pid": os.getpid(), "token": self._token, "beats": self._beats}
        with self._writing:
            if self._fd >= 0:
                os.pwrite(self._fd, json.dumps(mark).ljust(_WIDTH).encode(), 0)
                # A network disk shows others what was written when a descriptor of the file is closed, not before.
                os.close(os.dup(self._fd))

    def _is_dead(self, mark: dict[str, Any]) -> bool:
        if _is_of_the_dead(mark):
            return True
        seen = (mark.get("token"), mark.get("beats"))
        if seen != self._watched[0]:
            self._watched = (seen, time.monotonic())
        return time.monotonic() - self._watched[1] > self._patience.owner_s

    def _remove(self, dead: dict[str, Any] | None) -> None:
        """Removes the mark that was judged; one that took its place in the meantime is put back."""
        aside = self.path.with_name(f"{self.path.name}.{self._token}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        if (_read(aside) or {}).get("token") != (dead or {}).get("token"):
            with suppress(OSError):
                os.link(aside, self.path)
        aside.unlink(missing_ok=True)


def _now() -> float:
    """Seconds that go on while the machine sleeps, as they do for whoever watches the mark from another one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def is_free(part: Path) -> bool:
    """Whether nobody writes a partial file, as far as one look can tell: no mark, or one of a process that is gone."""
    mark = _read(part.with_name(part.name + ".owner"))
    return mark is None or _is_of_the_dead(mark)


def _is_of_the_dead(mark: dict[str, Any]) -> bool:
    return mark.get("host") == host_id() and not _runs(mark.get("pid"))


def host_id() -> str:
    """This host as far as process numbers mean the same: name, boot, and the container's own numbering."""
    try:
        numbering = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        numbering = ""
    return f"{socket.gethostname()[:60]} {boot_tag().hex()} {numbering}"


def _runs(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """What a mark says; empty when it is torn, None when there is none."""
    try:
        mark = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return mark if isinstance(mark, dict) else {}
