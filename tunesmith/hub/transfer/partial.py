"""A file that is still arriving, on the disk, with the journal beside it that says which of its bytes are there."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from tunesmith.hub.transfer.journal import SEALED, WRITTEN, Journal, journal_of, write_all
from tunesmith.hub.transfer.spans import Span, Spans

_NOTE_BYTES = 256 << 10


class Partial:
    """A file that is still arriving. Threads may write and seal at once; every method may raise OSError."""

    def __init__(self, path: Path, size: int, identity: str) -> None:
        """Opens or makes `path` and its journal; `size` is the whole file's, in bytes."""
        self.path, self.size = path, size
        self._lock, self._sealing = threading.Lock(), threading.Lock()
        self.closed = False
        self.generation = 0
        """Moves on when what has arrived is thrown away."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._journal = Journal(journal_of(path), size, identity)
        said = self._journal.read()
        there = said.clipped(os.fstat(self._fd).st_size)
        if there.total < said.total:
            # It must not vouch for the rest once the file has its length again.
            self._journal.clear()
            self._journal.append(WRITTEN, there)
        self._there, self._unnoted, self._unsealed = there, Spans(), Spans(there)
        self.found = there.total
        """Bytes that were there when it was opened."""
        os.ftruncate(self._fd, size)

    @property
    def received(self) -> int:
        """Bytes that are there."""
        with self._lock:
            return self._there.total

    @property
    def prefix(self) -> int:
        """Bytes that are there from the beginning without a hole."""
        with self._lock:
            return self._there.prefix

    @property
    def unsealed(self) -> int:
        """Bytes that a power loss could still take."""
        with self._lock:
            return self._unsealed.total

    def holes(self) -> list[tuple[int, int]]:
        with self._lock:
            return self._there.holes(self.size)

    def write(self, offset: int, data: bytes, generation: int = 0) -> bool:
        """Puts `data` at `offset`; False, and nothing else, once the file is closed or of a later generation.

        What is there stays as it is: it may have been hashed already.
        """
        with self._lock:
            if self.closed or generation != self.generation:
                return False
            for start, end in Spans([(offset, offset + len(data))]).without(self._there):
                write_all(self._fd, memoryview(data)[start - offset : end - offset], start)
                self._add(start, end)
            return True

    def take(self, put: Callable[[int], Span], generation: int = 0, when_empty: bool = False) -> Span | None:
        """Lets `put` write to the file's descriptor; the span it returns, which is there from now on.

        None, and nothing else, where `write` does nothing; an empty span where bytes are there `when_empty` forbids.
        """
        with self._lock:
            if self.closed or generation != self.generation:
                return None
            if when_empty and self._there.total:
                return 0, 0
            start, end = put(self._fd)
            self._add(start, end)
            return start, end

    def seal(self) -> None:
        """Flushes what has arrived to the disk, then vouches for it."""
        with self._sealing:
            with self._lock:
                if self.closed:
                    return
                spans, self._unsealed = self._unsealed, Spans()
            try:
                os.fdatasync(self._fd)
                with self._lock:
                    self._journal.append(SEALED, spans, sync=True)
            except OSError:
                self._unseal(spans)
                raise

    def clear(self) -> None:
        """Throws away what has arrived; nothing once the file is closed."""
        with self._sealing, self._lock:
            if self.closed:
                return
            self._journal.clear()
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, self.size)
            self._there, self._unnoted, self._unsealed = Spans(), Spans(), Spans()
            self.found = 0
            self.generation += 1

    def finish(self, place: Path) -> bool:
        """Makes the whole file the one at `place` and forgets the journal; False, and nothing, when it is not whole,
        or closed.
        """
        with self._sealing:
            if self.closed or self.holes():
                return False
            os.fdatasync(self._fd)
            with self._lock:
                self.path.replace(place)
                self._let_go()
        journal_of(self.path).unlink(missing_ok=True)
        return True

    def remove(self) -> None:
        """Throws away the file and its journal."""
        self.close()
        for path in (self.path, journal_of(self.path)):
            path.unlink(missing_ok=True)

    def close(self, note: bool = True) -> None:
        """Notes what has arrived and lets go of the files; calling it again does nothing.

        Without `note` where the journal is another process's by now: a record would lie over that one's.
        """
        with self._sealing, self._lock:
            if not self.closed:
                self._let_go(note)

    def _let_go(self, note: bool = True) -> None:
        self.closed = True
        try:
            if note:
                self._note()
        finally:
            self._journal.close()
            os.close(self._fd)

    def _add(self, start: int, end: int) -> None:
        for spans in (self._there, self._unnoted, self._unsealed):
            spans.add(start, end)
        if self._unnoted.total >= _NOTE_BYTES:
            self._note()

    def _note(self) -> None:
        self._journal.append(WRITTEN, self._unnoted)
        self._unnoted = Spans()

    def _unseal(self, spans: Spans) -> None:
        with self._lock:
            for start, end in spans:
                self._unsealed.add(start, end)
