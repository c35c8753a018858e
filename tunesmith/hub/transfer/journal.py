"""A file that is still arriving: its bytes, and beside them a journal that says which of them are there.

    <name>.part           as long as the file will be, with holes
    <name>.part.journal   a header that names the content, then one record a range

A SEALED record is written after the bytes it vouches for were flushed to the disk, so it survives a power loss. A
WRITTEN record follows at once, after every quarter of a MiB: it outlives the process, and is believed only while the
kernel that held the bytes in memory still runs. A record is 32 bytes with a checksum; reading stops at the first that
does not add up, which is where a write was cut off.
"""

import hashlib
import os
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

from tunesmith.hub.transfer.spans import Span, Spans

WRITTEN, SEALED = 1, 2
_HEADER = struct.Struct("<8sQ32s12xI")
_RECORD = struct.Struct("<B3xQQ8sI")
_MAGIC = b"TSpart01"
_NOTE_BYTES = 256 << 10
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_tag() -> bytes:
    """Eight bytes that change when the machine starts anew; zeros where it does not say."""
    try:
        return hashlib.sha256(_BOOT_ID.read_bytes()).digest()[:8]
    except OSError:
        return bytes(8)


class Journal:
    """The records of one partial file. Every method may raise OSError."""

    def __init__(self, path: Path, size: int, identity: str) -> None:
        """`size` in bytes; `identity` names the content, such as `sha256:…`."""
        self._header = _header(size, identity)
        self._seed = zlib.crc32(self._header[:-4])
        self._size, self._boot = size, boot_tag()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._end = 0

    def read(self) -> Spans:
        """The vouched ranges; afterwards records are appended after the last good one."""
        content = _read_all(self._fd)
        spans, good = vouched(content, self._header, self._boot)
        if good == 0:
            self.clear()
        self._end = max(good, _HEADER.size)
        os.ftruncate(self._fd, self._end)
        return spans.clipped(self._size)

    def append(self, kind: int, spans: Spans, sync: bool = False) -> None:
        """Adds records at the end of what is known to be whole, even after an append that failed midway."""
        block = b"".join(self._pack(kind, start, end) for start, end in spans)
        _write_all(self._fd, block, self._end)
        self._end += len(block)
        if sync:
            os.fdatasync(self._fd)

    def clear(self) -> None:
        """Vouches for nothing from now on."""
        os.ftruncate(self._fd, 0)
        _write_all(self._fd, self._header, 0)
        os.fdatasync(self._fd)
        self._end = _HEADER.size

    def close(self) -> None:
        os.close(self._fd)

    def _pack(self, kind: int, start: int, end: int) -> bytes:
        body = _RECORD.pack(kind, start, end, self._boot, 0)[:-4]
        return body + struct.pack("<I", zlib.crc32(body, self._seed))


def vouched(content: bytes, header: bytes, boot: bytes) -> tuple[Spans, int]:
    """The ranges that a journal's bytes vouch for, and how many of its bytes are whole; 0 when it is another file's."""
    spans, at = Spans(), _HEADER.size
    if content[:at] != header:
        return spans, 0
    seed = zlib.crc32(header[:-4])
    while at + _RECORD.size <= len(content):
        kind, start, end, tag, check = _RECORD.unpack_from(content, at)
        if check != zlib.crc32(content[at : at + _RECORD.size - 4], seed):
            break
        if kind == SEALED or (kind == WRITTEN and tag == boot != bytes(8)):
            spans.add(start, end)
        at += _RECORD.size
    return spans, at


def peek(part: Path, size: int, identity: str) -> Spans:
    """What is there of a file that another process writes; nothing when it cannot be told."""
    try:
        content = journal_of(part).read_bytes()
    except OSError:
        return Spans()
    return vouched(content, _header(size, identity), boot_tag())[0].clipped(size)


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
                _write_all(self._fd, memoryview(data)[start - offset : end - offset], start)
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


def journal_of(part: Path) -> Path:
    """The journal of a partial file."""
    return part.with_name(part.name + ".journal")


def _header(size: int, identity: str) -> bytes:
    body = _HEADER.pack(_MAGIC, size, hashlib.sha256(identity.encode()).digest(), 0)[:-4]
    return body + struct.pack("<I", zlib.crc32(body))


def _read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
