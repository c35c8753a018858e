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
import zlib
from pathlib import Path

from tunesmith.hub.transfer.spans import Spans

WRITTEN, SEALED = 1, 2
_HEADER = struct.Struct("<8sQ32s12xI")
_RECORD = struct.Struct("<B3xQQ8sI")
_MAGIC = b"TSpart01"
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
        write_all(self._fd, block, self._end)
        self._end += len(block)
        if sync:
            os.fdatasync(self._fd)

    def clear(self) -> None:
        """Vouches for nothing from now on."""
        os.ftruncate(self._fd, 0)
        write_all(self._fd, self._header, 0)
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


def journal_of(part: Path) -> Path:
    """The journal of a partial file."""
    return part.with_name(part.name + ".journal")


def _header(size: int, identity: str) -> bytes:
    body = _HEADER.pack(_MAGIC, size, hashlib.sha256(identity.encode()).digest(), 0)[:-4]
    return body + struct.pack("<I", zlib.crc32(body))


def _read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Puts all of `data` at `offset`, however many calls that takes."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
