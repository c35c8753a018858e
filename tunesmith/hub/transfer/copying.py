"""Bytes of a file on this machine into a partial: shared where the file system can do that, else moved by the kernel.

No hard link: a later edit of the source would change what the cache vouches for. Shared blocks are the file's own as
soon as somebody writes to one of the two.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.hub.transfer.faults import Broke, Changed, Dropped, Refused
from tunesmith.hub.transfer.partial import Partial
from tunesmith.hub.transfer.ranges import Claim
from tunesmith.hub.transfer.spans import Span

_FICLONE = 0x40049409
_BLOCK = 1 << 20
_CANNOT = {
    errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY, errno.EXDEV,
}  # fmt: skip
"""What a kernel or a file system says that has no such call, or not between these two files."""


def copy(file: Path, partial: Partial, claim: Claim, holds: Callable[[], bool]) -> bool:
    """Puts the claim's part of `file` into `partial`, or all of it at once; False as soon as `holds` says no.

    Raises Broke, Changed, Refused or Dropped, and OSError for the partial's disk.
    """
    with opened(file, partial.size) as source:
        while claim.at < claim.end and partial.holes():
            if claim.dropped:
                raise Dropped("no longer wanted")
            if not holds():
                return False
            _step(source, partial, claim)
    return True


@contextmanager
def opened(file: Path, size: int) -> Iterator[int]:
    """A descriptor to read a file of `size` bytes from; what is wrong with it is a fault of the source."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Broke(f"{file} is gone") from error
    except OSError as error:
        raise Refused(f"cannot be read: {file} ({error.strerror})") from error
    try:
        if (found := os.fstat(descriptor).st_size) != size:
            raise Changed(f"has a file of {found:,} bytes where {size:,} are listed")
        yield descriptor
    except OSError as error:
        if error.errno == errno.EIO:
            raise Broke(f"{file}: {error.strerror}") from error
        raise
    finally:
        os.close(descriptor)


def _step(source: int, partial: Partial, claim: Claim) -> None:
    """The whole file, where nothing is there yet and blocks can be shared; else the claim's next block."""
    at, size = claim.at, min(_BLOCK, claim.end - claim.at)
    span = partial.take(lambda target: _clone(source, target, partial.size), claim.generation, when_empty=True)
    if span == (0, 0):
        span = partial.take(lambda target: (at, at + _move(source, target, at, size)), claim.generation)
    if span is None:
        raise Dropped("begun anew")
    if span[0] == span[1]:
        raise Broke("the answer ends early")
    claim.received += span[1] - span[0]
    claim.at = min(span[1], claim.end)


def _clone(source: int, target: int, size: int) -> Span:
    """What the two files share from now on: everything, or nothing."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return 0, 0
    return 0, size


def _move(source: int, target: int, at: int, size: int) -> int:
    """How many bytes were moved, at most `size`; none where the source ends."""
    if hasattr(os, "copy_file_range"):
        try:
            if count := os.copy_file_range(source, target, size, at, at):
                return count
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
    data = os.pread(source, size, at)
    return os.pwrite(target, data, at)
