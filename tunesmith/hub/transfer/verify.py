"""What happens to a file while it arrives: one thread hashes it, up to its first hole, one flushes it to the disk."""

import hashlib
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from io import FileIO
from typing import NamedTuple, Protocol

from tunesmith.hub.transfer.partial import Partial

_GIT_ID = re.compile(r"[0-9a-f]{40}")
_BLOCK = 4 << 20
"""Large, since each is waited for twice while the other threads are busy."""
_TURN_BLOCKS = 4
_WINDOW_BYTES = 8 << 20
_WINDOW_SECONDS = 2.0
_LOOK_SECONDS = 0.02
_LAG_BYTES = 32 << 20


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


class Follower(threading.Thread, ABC):
    """Works on one partial file while others write it, until it is done with it, or stopped."""

    def __init__(self, partial: Partial, failed: Callable[[Exception], None]) -> None:
        """`failed` is called from this thread, unless it was stopped before."""
        super().__init__(name=f"{type(self).__name__} {partial.path.name[:12]}", daemon=True)
        self._partial, self._failed = partial, failed
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends it soon."""
        self._stopped.set()

    def run(self) -> None:
        try:
            self.follow()
        except Exception as error:
            if not self._stopped.is_set():
                self._failed(error)

    @abstractmethod
    def follow(self) -> None:
        """The work."""


class Sealer(Follower):
    """Flushes what has arrived, apart from the hashing, which would stand still for as long as the disk takes."""

    def __init__(self, partial: Partial, holds: Callable[[], bool], failed: Callable[[Exception], None]) -> None:
        """Ends when `holds` says that the partial is another process's."""
        super().__init__(partial, failed)
        self._holds = holds

    def follow(self) -> None:
        sealed_at = time.monotonic()
        while not (self._stopped.wait(_LOOK_SECONDS) or self._partial.closed):
            due = time.monotonic() - sealed_at > _WINDOW_SECONDS
            if (waiting := self._partial.unsealed) and (due or waiting >= _WINDOW_BYTES):
                if not self._holds():
                    return
                self._partial.seal()
                sealed_at = time.monotonic()


class Keeper(Follower):
    """Hashes what has arrived, up to the first hole; when the file is whole, `done` is told its digest."""

    def __init__(
        self, partial: Partial, hasher: Hasher, done: Callable[[str], None], failed: Callable[[Exception], None]
    ) -> None:
        """One of `done` and `failed` is called from this thread, once, or neither when it was stopped."""
        super().__init__(partial, failed)
        self._hasher, self._done = hasher, done
        self._block = memoryview(b"")
        self._hashed, self._found = 0, partial.prefix
        self._since: tuple[int, int] | None = None
        """Bytes that had arrived, and had been hashed, when a lot began to wait."""

    def lags(self) -> bool:
        """Whether, while a lot waits to be hashed, more arrives than is hashed: asked again and again.

        A lot may wait without that where many ranges end at once; and what was there before does not count.
        """
        arrived, hashed = self._partial.received, self._hashed
        if hashed < self._found or self._partial.prefix - hashed <= _LAG_BYTES:
            self._since = None
            return False
        self._since = self._since or (arrived, hashed)
        return arrived - self._since[0] > hashed - self._since[1]

    def follow(self) -> None:
        self._block = memoryview(bytearray(min(_BLOCK, self._partial.size)))
        try:
            self._hash_all()
        finally:
            # A file that is done is remembered for as long as the others take.
            self._block = memoryview(b"")

    def _hash_all(self) -> None:
        # A descriptor of its own: the writers close theirs whenever they like.
        with self._partial.path.open("rb", buffering=0) as file:
            while not self._stopped.is_set():
                if not self._hash(file) and self._hashed < self._partial.size:
                    self._stopped.wait(_LOOK_SECONDS)
                if self._hashed == self._partial.size:
                    self._done(self._hasher.hexdigest())
                    return

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
