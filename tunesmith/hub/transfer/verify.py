"""Digests of a file while it arrives: a thread follows the bytes that are there without a hole, and flushes them."""

import hashlib
import re
import threading
import time
from collections.abc import Callable
from io import FileIO
from typing import NamedTuple, Protocol

from tunesmith.hub.transfer.journal import Partial

_GIT_ID = re.compile(r"[0-9a-f]{40}")
_BLOCK = 4 << 20
"""Large, since each is waited for twice while the other threads are busy."""
_TURN_BLOCKS = 4
_WINDOW_BYTES = 8 << 20
_WINDOW_SECONDS = 2.0
_LOOK_SECONDS = 0.02


class Hasher(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class Digest(NamedTuple):
    """How a file's content is named: by its sha256, or as git names it."""

    sha256: str | None
    git: str | None = None
    """Git's blob id; None where no source says it."""

    @property
    def wanted(self) -> str | None:
        """64 or 40 hex digits; None when nobody says what the content is."""
        return self.sha256 or self.git

    def start(self, size: int) -> Hasher:
        """Made for a file of `size` bytes."""
        if self.sha256:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

    def of(self, content: bytes) -> str:
        hasher = self.start(len(content))
        hasher.update(content)
        return hasher.hexdigest()


def git_id(etag: str | None) -> str | None:
    """`etag`, when it can be a git blob's id."""
    return etag if etag and _GIT_ID.fullmatch(etag) else None


class Keeper(threading.Thread):
    """Hashes and seals one partial file while others write it; when it is whole, `done` is told its digest."""

    def __init__(
        self, partial: Partial, hasher: Hasher, done: Callable[[str], None], failed: Callable[[Exception], None]
    ) -> None:
        """`done` and `failed` are called from this thread, once, one of them, or neither when it was stopped."""
        super().__init__(name=f"keeper {partial.path.name[:12]}", daemon=True)
        self._partial, self._hasher = partial, hasher
        self._done, self._failed = done, failed
        self._stopped = threading.Event()
        self._block = memoryview(bytearray(min(_BLOCK, partial.size)))
        self._hashed, self._sealed_at = 0, time.monotonic()

    def stop(self) -> None:
        """Ends it soon."""
        self._stopped.set()

    def run(self) -> None:
        try:
            # A descriptor of its own: the writers close theirs whenever they like.
            with self._partial.path.open("rb", buffering=0) as file:
                self._follow(file)
        except Exception as error:
            if not self._stopped.is_set():
                self._failed(error)

    def _follow(self, file: FileIO) -> None:
        while not self._stopped.is_set():
            self._seal()
            if not self._hash(file) and self._hashed < self._partial.size:
                self._stopped.wait(_LOOK_SECONDS)
            if self._hashed == self._partial.size:
                return self._done(self._hasher.hexdigest())
        return None

    def _seal(self) -> None:
        due = time.monotonic() - self._sealed_at > _WINDOW_SECONDS
        if (waiting := self._partial.unsealed) and (due or waiting >= _WINDOW_BYTES):
            self._partial.seal()
            self._sealed_at = time.monotonic()

    def _hash(self, file: FileIO) -> bool:
        """A few MiB of what is there; whether there was any."""
        began, prefix = self._hashed, self._partial.prefix
        for _ in range(_TURN_BLOCKS):
            count = file.readinto(self._block[: prefix - self._hashed])
            if not count:
                break
            self._hasher.update(self._block[:count])
            self._hashed += count
        return self._hashed > began
