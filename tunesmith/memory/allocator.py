"""What a stream of allocations makes PyTorch's CUDA caching allocator reserve, found out by replaying it.

Allocated and reserved differ by fragmentation, and only reserved counts against the device. No torch and no device are
needed; the allocator's rules, and where they are from, are in `segments`.
"""

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import NamedTuple

from tunesmith.errors import OutOfMemory
from tunesmith.memory.constants import GIB
from tunesmith.memory.expandable import ExpandablePool
from tunesmith.memory.segments import (
    GRAIN_BYTES,
    SMALL_BYTES,
    Block,
    DeviceMemory,
    Pool,
    SegmentPool,
    rounded_up,
)


class Event(NamedTuple):
    """Memory asked for, or given up."""

    block: int
    """Any number that no other block has while this one lives."""
    size: int
    """Bytes asked for; 0 frees the block."""


class Mark(NamedTuple):
    """A phase begins here; it ends at the next mark, or with the stream."""

    name: str
    """May come again: the phase's peaks are then those over all its stretches."""


class Peaks(NamedTuple):
    """The fullest moments of a stretch of the stream, what lives from before it included."""

    allocated_bytes: int
    """As torch.cuda.max_memory_allocated counts: whole blocks, so multiples of 512."""
    reserved_bytes: int
    """As torch.cuda.max_memory_reserved counts."""
    reserved_at_peak_bytes: int
    """Reserved when allocated first was at its peak."""


class Replay(NamedTuple):
    """The peaks of the whole stream, and those of its phases."""

    allocated_bytes: int
    reserved_bytes: int
    reserved_at_peak_bytes: int
    phases: dict[str, Peaks]
    """By mark, in the order of the first ones; what comes before the first mark is in none."""


def replay(events: Iterable[Event | Mark], *, expandable: bool, limit_bytes: int | None = None) -> Replay:
    """The peaks of the stream with or without `expandable_segments:True`, on a device of `limit_bytes`.

    The limit is what the device has for the allocator, without the CUDA context. Raises OutOfMemory where a block has
    no room under it, and ValueError for a stream that no program can have made: a block freed that does not live,
    allocated while it lives, or of less than no bytes.
    """
    allocator = Allocator(expandable=expandable, limit_bytes=limit_bytes)
    phases: dict[str, Peaks] = {}
    stretches = []
    for name, peaks in _stretches(events, allocator):
        stretches.append(peaks)
        if name is not None:
            phases[name] = _joined(phases[name], peaks) if name in phases else peaks
    return Replay(*reduce(_joined, stretches), phases)


class Allocator:
    """The caching allocator of one device and stream: which blocks live, and what is kept for later ones."""

    def __init__(self, *, expandable: bool, limit_bytes: int | None = None) -> None:
        kind = ExpandablePool if expandable else SegmentPool
        self.memory = DeviceMemory(limit_bytes)
        self.small: Pool = kind(self.memory, is_small=True)
        self.large: Pool = kind(self.memory, is_small=False)
        self.live: dict[int, Block] = {}
        """By the stream's number."""
        self.allocated_bytes = 0
        self._peak_bytes = self._reserved_at_peak_bytes = 0

    @property
    def peaks(self) -> Peaks:
        """Since the last reset."""
        return Peaks(self._peak_bytes, self.memory.peak_bytes, self._reserved_at_peak_bytes)

    def reset_peaks(self) -> None:
        self._peak_bytes = self.allocated_bytes
        self._reserved_at_peak_bytes = self.memory.peak_bytes = self.memory.reserved_bytes

    def apply(self, event: Event) -> None:
        """Raises what `replay` raises."""
        number, size = event
        if size > 0:
            self._allocate(number, size)
        elif size == 0:
            self._free(number)
        else:
            raise ValueError(f"Block {number} asks for {size} bytes: ask for one or more, or free it with 0.")

    def _allocate(self, number: int, size: int) -> None:
        if number in self.live:
            raise ValueError(f"Block {number} is allocated while it lives: free it first, or take another number.")
        rounded = rounded_up(size, GRAIN_BYTES)
        block = self._pool(rounded).allocate(rounded) or self._allocated_after_release(rounded)
        self.live[number] = block
        self.allocated_bytes += block.size
        if self.allocated_bytes > self._peak_bytes:
            self._peak_bytes = self.allocated_bytes
            self._reserved_at_peak_bytes = self.memory.reserved_bytes

    def _free(self, number: int) -> None:
        block = self.live.pop(number, None)
        if block is None:
            raise ValueError(f"Block {number} is freed and does not live: allocate it first.")
        self.allocated_bytes -= block.size
        self._pool(block.size).free(block)

    def _pool(self, size: int) -> Pool:
        return self.small if size <= SMALL_BYTES else self.large

    def _allocated_after_release(self, size: int) -> Block:
        self.large.release()
        self.small.release()
        block = self._pool(size).allocate(size)
        if block is None:
            raise OutOfMemory(self._refusal(size))
        return block

    def _refusal(self, size: int) -> str:
        limit, reserved = self.memory.limit_bytes, self.memory.reserved_bytes
        assert limit is not None, "without a limit there is always room"
        return (
            f"No room for {size / GIB:.3f} GiB more on a device of {limit / GIB:.3f} GiB: "
            f"{self.allocated_bytes / GIB:.3f} GiB are allocated and {(reserved - self.allocated_bytes) / GIB:.3f} lie "
            "in pieces, so use smaller micro-batches."
        )


def _stretches(events: Iterable[Event | Mark], allocator: Allocator) -> Iterator[tuple[str | None, Peaks]]:
    """Every stretch between two marks: its phase, None before the first, and its peaks."""
    phase = None
    for event in events:
        if isinstance(event, Mark):
            yield phase, allocator.peaks
            phase = event.name
            allocator.reset_peaks()
        else:
            allocator.apply(event)
    yield phase, allocator.peaks


def _joined(earlier: Peaks, later: Peaks) -> Peaks:
    """The peaks of two stretches in one."""
    fuller = later if later.allocated_bytes > earlier.allocated_bytes else earlier
    return fuller._replace(reserved_bytes=max(earlier.reserved_bytes, later.reserved_bytes))
