"""Expandable segments: the pool under PyTorch's `expandable_segments:True`.

Rules as in `segments`, and from the note "Expandable Segments" in c10/cuda/CUDACachingAllocator.cpp (torch 2.13). A
segment never runs out of addresses here; there it has 1 1/8 times the device's memory and a second one follows.
"""

from bisect import bisect_left

from tunesmith.memory.segments import Block, DeviceMemory, Pool, rounded_up

_PAGES = 2**40
"""Addresses of a segment: more than any device has pages."""


class ExpandablePool(Pool):
    """`expandable_segments:True`: one segment that grows by pages and gives back any page that is free."""

    def __init__(self, memory: DeviceMemory, *, is_small: bool) -> None:
        super().__init__(memory, is_small=is_small)
        self._unmapped = {0: Block(0, self._page_bytes * _PAGES, mapped=False)}
        """By address; whole pages all of them, since memory comes and goes by the page."""

    def release(self) -> None:
        for block in list(self.free_blocks.values()):
            self._unmap(block)

    def _best_fit(self, size: int) -> Block | None:
        """A block that can still grow is as large as it may become, so a larger one that cannot goes first."""
        index, last = bisect_left(self._by_size, (size, 0)), len(self._by_size) - 1
        if index > last:
            return None
        while index < last and self._reach(index + 1) < self._reach(index):
            index += 1
        return self._take(index)

    def _reach(self, index: int) -> int:
        block = self.free_blocks[self._by_size[index][1]]
        after = block.after
        return block.size if after is None or after.mapped else block.size + after.size

    def _grown(self, size: int) -> Block | None:
        """Maps what the lowest gap that is wide enough lacks; pages mapped before the room ran out stay free."""
        block: Block | None = self._lowest_gap(size)
        while block is not None and not (block.mapped and block.size >= size):
            missing = size - block.size if block.mapped else size
            unmapped = block.after if block.mapped else block
            assert unmapped is not None, "a gap is wide enough"
            block = self._map(unmapped, missing)
        if block is not None:
            self._drop(block)
        return block

    def _lowest_gap(self, size: int) -> Block:
        """Where free blocks and addresses without memory, side by side, first come to `size` bytes."""
        for address in sorted(self._unmapped):
            block = self._unmapped[address]
            start = block.before if block.before is not None and not block.before.used else block
            if _is_gap(start, size):
                return start
        raise AssertionError("the last addresses of a segment are without memory, and endless")

    def _map(self, block: Block, size: int) -> Block | None:
        """Puts memory behind the first `size` bytes or the page they end in; returns the free block they are in."""
        mapped = min(block.size, rounded_up(size, self._page_bytes))
        if not self._memory.reserve(mapped):
            return None
        del self._unmapped[block.address]
        if mapped < block.size:
            rest = block.cut(mapped)
            self._unmapped[rest.address] = rest
        block.mapped = True
        self._merge(block)
        self._keep(block)
        return block

    def _unmap(self, block: Block) -> None:
        """Gives back the whole pages of a free block; what sticks out on either side stays free."""
        first = rounded_up(block.address, self._page_bytes)
        last = block.end // self._page_bytes * self._page_bytes
        if first >= last:
            return
        self._drop(block)
        if last < block.end:
            self._keep(block.cut(last - block.address))
        if first > block.address:
            sticking_out, block = block, block.cut(first - block.address)
            self._keep(sticking_out)
        block.mapped = False
        self._memory.give_back(block.size)
        self._merge(block)
        self._unmapped[block.address] = block

    def _drop(self, block: Block) -> None:
        if block.mapped:
            super()._drop(block)
        else:
            del self._unmapped[block.address]


def _is_gap(block: Block | None, size: int) -> bool:
    """Whether the blocks from this one on, up to the first used one, come to `size` bytes."""
    while size > 0 and block is not None and not block.used:
        size -= block.size
        block = block.after
    return size <= 0
