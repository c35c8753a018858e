"""The device's memory as PyTorch's caching allocator cuts it up: blocks, in segments, in two kinds of pool.

The rules are those of c10/cuda/CUDACachingAllocator.cpp and c10/core/AllocatorConfig.h in torch 2.13 with their
defaults, for one device and one stream. Addresses are handed out upwards here, where cudaMalloc chooses them, which
decides only between free blocks of one size.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left, insort

GRAIN_BYTES = 512
"""Every block is a multiple of it."""
SMALL_BYTES = 2**20
"""Largest block of the small pool."""
SMALL_SEGMENT_BYTES = 2 * 2**20
"""A segment of the small pool, or a page of its expandable one."""
LARGE_SEGMENT_BYTES = 20 * 2**20
"""The same of the large pool."""

_OWN_SEGMENT_BYTES = 10 * 2**20
"""Blocks from here on get a segment of their own size."""
_OWN_SEGMENT_GRAIN_BYTES = 2 * 2**20


def rounded_up(size: int, grain: int) -> int:
    """The next multiple of `grain`, bytes."""
    return -(-size // grain) * grain


def segment_bytes(size: int) -> int:
    """What cudaMalloc is asked for when no cached block has `size` bytes (a multiple of 512)."""
    if size <= SMALL_BYTES:
        return SMALL_SEGMENT_BYTES
    if size < _OWN_SEGMENT_BYTES:
        return LARGE_SEGMENT_BYTES
    return rounded_up(size, _OWN_SEGMENT_GRAIN_BYTES)


class DeviceMemory:
    """What the allocator has of the device, in bytes, and the most it had since the peak was last reset."""

    def __init__(self, limit_bytes: int | None) -> None:
        self.limit_bytes = limit_bytes
        self.reserved_bytes = 0
        self.peak_bytes = 0

    def reserve(self, size: int) -> bool:
        """False where that would exceed the limit; nothing is reserved then."""
        reserved = self.reserved_bytes + size
        if self.limit_bytes is not None and reserved > self.limit_bytes:
            return False
        self.reserved_bytes = reserved
        self.peak_bytes = max(self.peak_bytes, reserved)
        return True

    def give_back(self, size: int) -> None:
        self.reserved_bytes -= size


class Block:
    """A stretch of a segment, linked to the two beside it; used, free, or addresses without memory."""

    __slots__ = ("address", "after", "before", "mapped", "size", "used")

    def __init__(self, address: int, size: int, *, mapped: bool = True) -> None:
        self.address = address
        self.size = size
        self.mapped = mapped
        self.used = False
        self.before: Block | None = None
        self.after: Block | None = None

    @property
    def end(self) -> int:
        return self.address + self.size

    def cut(self, size: int) -> "Block":
        """Shortens this block to `size` bytes and returns the rest, which is free."""
        rest = Block(self.address + size, self.size - size, mapped=self.mapped)
        rest.before, rest.after = self, self.after
        if self.after is not None:
            self.after.before = rest
        self.size, self.after = size, rest
        return rest

    def absorb(self, neighbour: "Block") -> None:
        if neighbour is self.before:
            self.address, self.before = neighbour.address, neighbour.before
            if self.before is not None:
                self.before.after = self
        else:
            self.after = neighbour.after
            if self.after is not None:
                self.after.before = self
        self.size += neighbour.size


class Pool(ABC):
    """Free blocks that have memory, and how to get more of them."""

    def __init__(self, memory: DeviceMemory, *, is_small: bool) -> None:
        self.free_blocks: dict[int, Block] = {}
        """By address."""
        self._memory = memory
        self._page_bytes = SMALL_SEGMENT_BYTES if is_small else LARGE_SEGMENT_BYTES
        self._least_rest_bytes = GRAIN_BYTES
        self._by_size: list[tuple[int, int]] = []
        """(size, address) of the free blocks, sorted."""

    def allocate(self, size: int) -> Block | None:
        """A block of at least `size` bytes, a multiple of 512; None where the device has no room for it."""
        block = self._best_fit(size) or self._grown(size)
        if block is None:
            return None
        if block.size - size >= self._least_rest_bytes:
            self._keep(block.cut(size))
        block.used = True
        return block

    def free(self, block: Block) -> None:
        """Keeps the block for later, as one with the free ones beside it."""
        block.used = False
        self._merge(block)
        self._keep(block)

    @abstractmethod
    def release(self) -> None:
        """Gives the device what it can have back."""

    @abstractmethod
    def _grown(self, size: int) -> Block | None:
        """A new block of at least `size` bytes, not kept; None where the device has no room for it."""

    def _best_fit(self, size: int) -> Block | None:
        """The smallest that suffices, no longer kept; of several, the first by address."""
        index = bisect_left(self._by_size, (size, 0))
        return self._take(index) if index < len(self._by_size) else None

    def _take(self, index: int) -> Block:
        return self.free_blocks.pop(self._by_size.pop(index)[1])

    def _keep(self, block: Block) -> None:
        self.free_blocks[block.address] = block
        insort(self._by_size, (block.size, block.address))

    def _drop(self, block: Block) -> None:
        self._take(bisect_left(self._by_size, (block.size, block.address)))

    def _merge(self, block: Block) -> None:
        """Joins the blocks beside this one that are free as it is."""
        for neighbour in (block.before, block.after):
            if neighbour is not None and not neighbour.used and neighbour.mapped is block.mapped:
                self._drop(neighbour)
                block.absorb(neighbour)


class SegmentPool(Pool):
    """The default: segments as cudaMalloc gives them, each given back only as a whole."""

    def __init__(self, memory: DeviceMemory, *, is_small: bool) -> None:
        super().__init__(memory, is_small=is_small)
        self._next_address = 0
        if not is_small:
            self._least_rest_bytes = SMALL_BYTES + GRAIN_BYTES

    def release(self) -> None:
        for block in list(self.free_blocks.values()):
            if block.before is None and block.after is None:
                self._drop(block)
                self._memory.give_back(block.size)

    def _grown(self, size: int) -> Block | None:
        segment = segment_bytes(size)
        if not self._memory.reserve(segment):
            return None
        self._next_address += segment
        return Block(self._next_address - segment, segment)
