"""The replayed caching allocator: what must hold for any stream."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import OutOfMemory
from tunesmith.memory.allocator import Allocator, Event, Mark, replay
from tunesmith.memory.segments import SMALL_BYTES, Block, Pool, rounded_up

KIB, MIB = 2**10, 2**20
BOTH = pytest.mark.parametrize("expandable", [False, True], ids=["native", "expandable"])

SMALL_SIZES = st.one_of(st.integers(1, 4 * KIB), st.integers(1, MIB))
LARGE_SIZES = st.one_of(
    st.integers(MIB + 1, 10 * MIB),
    st.integers(10 * MIB, 50 * MIB),
    st.sampled_from([MIB + 1, 9 * MIB, 10 * MIB, 11 * MIB, 19 * MIB, 20 * MIB, 21 * MIB]),
)


@st.composite
def streams(draw: st.DrawFn, sizes: st.SearchStrategy[int] = SMALL_SIZES | LARGE_SIZES) -> list[Event]:
    """Blocks that come and go in any order; some live at the end."""
    events: list[Event] = []
    live: list[int] = []
    for number in range(draw(st.integers(1, 40))):
        if live and draw(st.booleans()):
            events.append(Event(live.pop(draw(st.integers(0, len(live) - 1))), 0))
        else:
            live.append(number)
            events.append(Event(number, draw(sizes)))
    return events


@st.composite
def stacks(draw: st.DrawFn, sizes: st.SearchStrategy[int]) -> list[Event]:
    """The last that came is the first to go."""
    events: list[Event] = []
    live: list[int] = []
    for number, size in enumerate(draw(st.lists(st.none() | sizes, max_size=40))):
        if size is not None:
            live.append(number)
            events.append(Event(number, size))
        elif live:
            events.append(Event(live.pop(), 0))
    return events


def twice(events: list[Event]) -> list[Event]:
    """The stream, everything freed, and the stream again."""
    live = dict.fromkeys(event.block for event in events)
    for event in events:
        if event.size == 0:
            del live[event.block]
    return [*events, *(Event(block, 0) for block in live), *events]


def segments(allocator: Allocator, pool: Pool) -> Iterator[list[Block]]:
    """The blocks of every segment in their order, found by walking from the blocks that are known."""
    live = [block for block in allocator.live.values() if (block.size <= SMALL_BYTES) is (pool is allocator.small)]
    heads: dict[int, Block] = {}
    for block in [*live, *pool.free_blocks.values()]:
        while block.before is not None:
            block = block.before
        heads[block.address] = block
    for _, head in sorted(heads.items()):
        blocks = [head]
        while blocks[-1].after is not None:
            blocks.append(blocks[-1].after)
        yield blocks


def check(allocator: Allocator) -> None:
    """Blocks tile their segments without overlap or adjoining free ones, and add up to what is counted."""
    found: list[Block] = []
    for pool in (allocator.small, allocator.large):
        end, free = 0, {}
        for blocks in segments(allocator, pool):
            assert blocks[0].address >= end, "segments overlap"
            for before, after in pairwise(blocks):
                assert before.end == after.address
                assert after.before is before
                assert before.used or after.used or before.mapped is not after.mapped, "free neighbours not joined"
            end = blocks[-1].end
            free |= {block.address: block for block in blocks if block.mapped and not block.used}
            found += blocks
        assert pool.free_blocks == free
    assert all(block.size > 0 and block.size % 512 == 0 for block in found)
    assert {id(block) for block in found if block.used} == {id(block) for block in allocator.live.values()}
    assert sum(block.size for block in found if block.used) == allocator.allocated_bytes
    assert sum(block.size for block in found if block.mapped) == allocator.memory.reserved_bytes


@BOTH
@given(stream=streams())
def test_blocks_never_overlap_and_add_up(stream: list[Event], expandable: bool) -> None:
    allocator = Allocator(expandable=expandable)
    for event in stream:
        before = allocator.memory.reserved_bytes
        allocator.apply(event)
        check(allocator)
        assert allocator.memory.reserved_bytes >= max(before, allocator.allocated_bytes), "reserved fell, or too little"


@given(stream=streams())
def test_an_expandable_segment_allocates_what_is_asked_for_and_native_no_less(stream: list[Event]) -> None:
    sizes: dict[int, int] = {}
    peak = 0
    for number, size in stream:
        sizes[number] = rounded_up(size, 512)
        peak = max(peak, sum(sizes.values()))
    assert replay(stream, expandable=True).allocated_bytes == peak
    assert replay(stream, expandable=False).allocated_bytes >= peak


@given(stream=streams())
def test_the_same_again_after_everything_is_freed_needs_no_more_of_an_expandable_segment(stream: list[Event]) -> None:
    assert replay(twice(stream), expandable=True) == replay(stream, expandable=True)


@given(stream=(SMALL_SIZES | LARGE_SIZES).flatmap(lambda size: streams(st.just(size))))
def test_nor_of_native_ones_with_blocks_of_one_size(stream: list[Event]) -> None:
    assert replay(twice(stream), expandable=False) == replay(stream, expandable=False)


@given(stream=stacks(SMALL_SIZES))
def test_a_stack_of_small_blocks_wastes_less_than_a_page(stream: list[Event]) -> None:
    found = replay(stream, expandable=True)
    assert found.reserved_bytes == rounded_up(found.allocated_bytes, 2 * MIB)


@given(stream=stacks(LARGE_SIZES))
def test_and_so_does_one_of_large_blocks(stream: list[Event]) -> None:
    found = replay(stream, expandable=True)
    assert found.reserved_bytes == rounded_up(found.allocated_bytes, 20 * MIB)


@BOTH
@given(stream=streams(), share=st.floats(0.3, 1.1))
def test_a_limit_is_kept_or_the_device_is_out_of_memory(stream: list[Event], share: float, expandable: bool) -> None:
    limit = int(share * replay(stream, expandable=expandable).reserved_bytes)
    allocator = Allocator(expandable=expandable, limit_bytes=limit)
    try:
        for event in stream:
            allocator.apply(event)
            check(allocator)
    except OutOfMemory:
        assert expandable or not whole_free_segments(allocator), "more could have gone back"
    check(allocator)
    assert allocator.peaks.allocated_bytes <= allocator.peaks.reserved_bytes <= limit


def whole_free_segments(allocator: Allocator) -> list[Block]:
    free = [*allocator.small.free_blocks.values(), *allocator.large.free_blocks.values()]
    return [block for block in free if block.before is None and block.after is None]


@BOTH
@given(stream=streams(), share=st.floats(1, 2))
def test_a_limit_that_suffices_changes_nothing(stream: list[Event], share: float, expandable: bool) -> None:
    found = replay(stream, expandable=expandable)
    limit = int(share * found.reserved_bytes)
    assert replay(stream, expandable=expandable, limit_bytes=limit) == found


@BOTH
@given(stream=streams(), cuts=st.lists(st.integers(0, 40), max_size=5))
def test_marks_change_no_peak_and_the_phases_hold_it(stream: list[Event], cuts: list[int], expandable: bool) -> None:
    marked: list[Event | Mark] = [Mark("0"), *stream]
    for cut in cuts:
        marked.insert(1 + cut % len(stream), Mark(str(cut % 3)))
    found = replay(marked, expandable=expandable)
    assert found[:3] == replay(stream, expandable=expandable)[:3]
    assert found.allocated_bytes == max(peaks.allocated_bytes for peaks in found.phases.values())
    assert found.reserved_bytes == max(peaks.reserved_bytes for peaks in found.phases.values())
