"""The replayed caching allocator: each rule on a case worked out by hand."""

from collections.abc import Iterable

import pytest

from tunesmith.errors import OutOfMemory
from tunesmith.memory.allocator import Allocator, Event, Mark, Peaks, replay

MIB = 2**20
BOTH = pytest.mark.parametrize("expandable", [False, True], ids=["native", "expandable"])


def asks(*mib: float) -> list[Event]:
    """Blocks 0, 1, ... of so many MiB."""
    return [Event(number, int(size * MIB)) for number, size in enumerate(mib)]


def frees(*blocks: int) -> list[Event]:
    return [Event(block, 0) for block in blocks]


def run(events: Iterable[Event], *, expandable: bool = False, limit_bytes: int | None = None) -> Allocator:
    allocator = Allocator(expandable=expandable, limit_bytes=limit_bytes)
    for event in events:
        allocator.apply(event)
    return allocator


def reserved_mib(events: Iterable[Event], *, expandable: bool = False) -> float:
    return replay(events, expandable=expandable).reserved_bytes / MIB


@pytest.mark.parametrize(
    ("size", "allocated", "reserved"),
    [
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (10 * MIB + 1, 10 * MIB + 512, 12 * MIB),
        (33 * MIB, 34 * MIB, 34 * MIB),
    ],
)
def test_one_native_block(size: int, allocated: int, reserved: int) -> None:
    assert replay([Event(1, size)], expandable=False)[:3] == (allocated, reserved, reserved)


@pytest.mark.parametrize(
    ("size", "allocated", "reserved"),
    [
        (1, 512, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 20 * MIB),
        (33 * MIB, 33 * MIB, 40 * MIB),
    ],
)
def test_one_expandable_block(size: int, allocated: int, reserved: int) -> None:
    assert replay([Event(1, size)], expandable=True)[:3] == (allocated, reserved, reserved)


def test_reserved_at_the_peak_of_allocated_may_be_less_than_the_peak_of_reserved() -> None:
    events = [*asks(12, 40), *frees(0, 1), Event(2, 12 * MIB), Event(3, 42 * MIB)]
    assert replay(events, expandable=False)[:3] == (54 * MIB, 94 * MIB, 94 * MIB)
    events = [*asks(12, 42), *frees(0, 1), Event(2, 44 * MIB)]
    assert replay(events, expandable=False)[:3] == (54 * MIB, 98 * MIB, 54 * MIB)


@BOTH
def test_an_empty_stream(expandable: bool) -> None:
    assert replay(iter(()), expandable=expandable) == (0, 0, 0, {})


@BOTH
def test_small_blocks_fill_a_segment_to_the_last_512_bytes(expandable: bool) -> None:
    full = [Event(number, 512) for number in range(4096)]
    assert reserved_mib(full, expandable=expandable) == 2
    assert reserved_mib([*full, Event(4096, 1)], expandable=expandable) == 4


def test_native_large_blocks_leave_a_rest_of_more_than_1_mib() -> None:
    split = asks(11 - 512 / MIB)
    assert run(split).allocated_bytes == 11 * MIB - 512
    assert [block.size for block in run(split).large.free_blocks.values()] == [MIB + 512]


def test_native_large_blocks_keep_a_rest_of_1_mib() -> None:
    kept = run(asks(11))
    assert (kept.allocated_bytes, kept.large.free_blocks) == (12 * MIB, {})
    kept.apply(Event(0, 0))
    assert kept.allocated_bytes == 0


def test_expandable_large_blocks_leave_any_rest() -> None:
    packed = run(asks(11, 9 - 512 / MIB), expandable=True)
    assert [block.size for block in packed.large.free_blocks.values()] == [512]


@BOTH
def test_the_pools_do_not_lend_to_each_other(expandable: bool) -> None:
    assert reserved_mib([*asks(2), *frees(0), Event(1, MIB)], expandable=expandable) == 22


def test_the_smallest_free_block_that_suffices_is_reused() -> None:
    events = [*asks(30, 12), *frees(0, 1), Event(2, 10 * MIB), Event(3, 30 * MIB)]
    assert reserved_mib(events) == 42


def test_of_equal_free_blocks_the_first_by_address() -> None:
    allocator = run([*asks(12, 12, 12), *frees(2, 0), Event(3, 12 * MIB)])
    assert allocator.live[3].address == 0


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (0, 2, 1)])
@BOTH
def test_free_neighbours_become_one_block(order: tuple[int, ...], expandable: bool) -> None:
    events = [*asks(6, 6, 6), *frees(*order), Event(3, 20 * MIB)]
    assert reserved_mib(events, expandable=expandable) == 20


def test_what_a_live_block_parts_stays_in_pieces() -> None:
    events = [*asks(6, 6, 6), *frees(0, 2)]
    assert sorted(block.size for block in run(events).large.free_blocks.values()) == [6 * MIB, 8 * MIB]
    assert reserved_mib([*events, Event(3, 8 * MIB)]) == 20
    assert reserved_mib([*events, Event(3, 9 * MIB)]) == 40


def test_a_native_second_round_may_need_more() -> None:
    """First 5 in a segment of 20 and 16 in its own, then 14 beside the 5; again, 5 splits the 16: best fit."""
    blocks = asks(5, 16, 14)
    again = [*blocks, *frees(0, 1, 2), *blocks]
    assert (reserved_mib(blocks), reserved_mib(again)) == (36, 50)
    assert reserved_mib(again, expandable=True) == reserved_mib(blocks, expandable=True) == 40


def test_an_expandable_segment_grows_where_native_takes_another() -> None:
    a_bit_more = [*asks(30), *frees(0), Event(1, 31 * MIB)]
    assert (reserved_mib(a_bit_more), reserved_mib(a_bit_more, expandable=True)) == (62, 40)


def test_expandable_pages_are_2_mib_for_small_blocks() -> None:
    assert reserved_mib(asks(1, 1, 1), expandable=True) == 4


def test_an_expandable_block_that_can_grow_goes_last() -> None:
    """[12 freed][2][6 that can grow]: 5 goes into the 12, though 6 is the tighter fit."""
    allocator = run([*asks(12, 2), *frees(0), Event(2, 5 * MIB)], expandable=True)
    assert allocator.live[2].address == 0


def test_the_end_of_an_expandable_segment_is_used_when_nothing_else_fits() -> None:
    allocator = run(asks(12, 2, 5), expandable=True)
    assert (allocator.live[2].address, allocator.memory.reserved_bytes) == (14 * MIB, 20 * MIB)


@BOTH
def test_at_the_limit_whole_free_segments_go_back(expandable: bool) -> None:
    events = [*asks(20, 20, 20), *frees(0, 2), Event(3, 30 * MIB)]
    allocator = run(events, expandable=expandable, limit_bytes=60 * MIB)
    assert allocator.memory.reserved_bytes == (60 if expandable else 50) * MIB
    assert replay(events, expandable=expandable, limit_bytes=60 * MIB).reserved_bytes == 60 * MIB


@BOTH
def test_at_the_limit_the_other_pool_gives_back_too(expandable: bool) -> None:
    events = [*asks(1), *frees(0), Event(1, 40 * MIB)]
    assert run(events, expandable=expandable, limit_bytes=40 * MIB).memory.reserved_bytes == 40 * MIB


def test_a_native_segment_with_a_live_block_stays() -> None:
    with pytest.raises(OutOfMemory) as refused:
        run(asks(5, 16), limit_bytes=35 * MIB)
    assert str(refused.value) == (
        "No room for 0.016 GiB more on a device of 0.034 GiB: 0.005 GiB are allocated and 0.015 lie in pieces, "
        "so use smaller micro-batches."
    )


def test_an_expandable_page_with_a_live_block_stays() -> None:
    """[5][10 freed][5] and [20 freed]: the second page goes back, the first does not."""
    allocator = run([*asks(5, 10, 5, 20), *frees(1, 3)], expandable=True, limit_bytes=40 * MIB)
    with pytest.raises(OutOfMemory):
        allocator.apply(Event(4, 21 * MIB))
    assert allocator.memory.reserved_bytes == 20 * MIB
    assert [block.size for block in allocator.large.free_blocks.values()] == [10 * MIB]


def test_only_the_pages_inside_a_free_block_go_back() -> None:
    """[15][30 freed][15] over three pages: the middle one goes."""
    allocator = run([*asks(15, 30, 15), *frees(1)], expandable=True, limit_bytes=60 * MIB)
    with pytest.raises(OutOfMemory):
        allocator.apply(Event(3, 31 * MIB))
    assert allocator.memory.reserved_bytes == 40 * MIB
    assert {block.address: block.size for block in allocator.large.free_blocks.values()} == {
        15 * MIB: 5 * MIB,
        40 * MIB: 5 * MIB,
    }


def test_the_lowest_gap_gets_its_pages_back_first() -> None:
    allocator = run([*asks(20, 20), *frees(0)], expandable=True, limit_bytes=60 * MIB)
    with pytest.raises(OutOfMemory):
        allocator.apply(Event(2, 50 * MIB))
    allocator.apply(Event(3, 18 * MIB))
    assert (allocator.live[3].address, allocator.memory.reserved_bytes) == (0, 40 * MIB)


def test_a_gap_of_free_pieces_and_missing_pages_is_one() -> None:
    """[15][5 free, page gone, 5 free][15]: 30 fits between the two."""
    allocator = run([*asks(15, 30, 15), *frees(1)], expandable=True, limit_bytes=60 * MIB)
    with pytest.raises(OutOfMemory):
        allocator.apply(Event(3, 31 * MIB))
    allocator.apply(Event(4, 30 * MIB))
    assert (allocator.live[4].address, allocator.memory.reserved_bytes) == (15 * MIB, 60 * MIB)


@BOTH
def test_exactly_the_limit_fits(expandable: bool) -> None:
    assert run(asks(20, 20), expandable=expandable, limit_bytes=40 * MIB).allocated_bytes == 40 * MIB
    with pytest.raises(OutOfMemory):
        run(asks(20, 20), expandable=expandable, limit_bytes=40 * MIB - 1)


def test_each_phase_has_the_peaks_of_its_own_stretch() -> None:
    events = [
        *asks(40),
        Mark("forward"),
        Event(1, 20 * MIB),
        Event(2, 30 * MIB),
        Mark("optimizer"),
        *frees(1, 2),
        Event(3, 12 * MIB),
        Mark("evaluation"),
        *frees(3),
    ]
    found = replay(events, expandable=False)
    assert found.phases == {
        "forward": Peaks(90 * MIB, 90 * MIB, 90 * MIB),
        "optimizer": Peaks(90 * MIB, 90 * MIB, 90 * MIB),
        "evaluation": Peaks(52 * MIB, 90 * MIB, 90 * MIB),
    }
    assert found[:3] == (90 * MIB, 90 * MIB, 90 * MIB)


def test_cached_memory_carries_over_to_the_next_phase() -> None:
    events = [Mark("train"), *asks(30), *frees(0), Mark("evaluate"), Event(1, 30 * MIB)]
    assert replay(events, expandable=False).phases["evaluate"] == Peaks(30 * MIB, 30 * MIB, 30 * MIB)
    events[-1] = Event(1, 31 * MIB)
    assert replay(events, expandable=False).phases["evaluate"] == Peaks(32 * MIB, 62 * MIB, 62 * MIB)


def test_a_phase_that_comes_again_has_the_peaks_over_all_its_stretches() -> None:
    step = [Mark("forward"), Event(1, 30 * MIB), Mark("backward"), *frees(1)]
    fuller = [Mark("forward"), Event(1, 42 * MIB), Mark("backward"), *frees(1)]
    found = replay([*step, *fuller, *step], expandable=False)
    assert list(found.phases) == ["forward", "backward"]
    assert found.phases["forward"] == Peaks(42 * MIB, 72 * MIB, 72 * MIB)
    assert found.phases["backward"] == found.phases["forward"]


def test_what_comes_before_the_first_mark_counts_for_the_whole_only() -> None:
    found = replay([*asks(30), *frees(0), Mark("later")], expandable=False)
    assert found == (30 * MIB, 30 * MIB, 30 * MIB, {"later": Peaks(0, 30 * MIB, 30 * MIB)})


@pytest.mark.parametrize(
    ("events", "sentence"),
    [
        (frees(3), "Block 3 is freed and does not live: allocate it first."),
        ([*asks(1), *frees(0, 0)], "Block 0 is freed and does not live: allocate it first."),
        ([*asks(1), *asks(1)], "Block 0 is allocated while it lives: free it first, or take another number."),
        ([Event(0, -1)], "Block 0 asks for -1 bytes: ask for one or more, or free it with 0."),
    ],
)
@BOTH
def test_a_stream_no_program_can_have_made(events: list[Event], sentence: str, expandable: bool) -> None:
    with pytest.raises(ValueError, match=sentence):
        replay(events, expandable=expandable)


@BOTH
def test_a_number_may_be_taken_again(expandable: bool) -> None:
    assert replay([*asks(20), *frees(0), *asks(20)], expandable=expandable).allocated_bytes == 20 * MIB
