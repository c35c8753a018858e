"""Which ranges are asked for, over how many connections, and how long anybody is waited for."""

import email.utils
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.hub.transfer.pace import Gauge, Speed, too_slow
from tunesmith.hub.transfer.partial import Partial
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.ranges import Claim, Ranges
from tunesmith.hub.transfer.spans import Spans
from tunesmith.hub.transfer.verify import Keeper

MIB = 1 << 20


@given(
    st.integers(1, 300), st.integers(1, 16), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=4)
)
def test_claims_cover_what_is_missing_once(size: int, connections: int, there: list[tuple[int, int]]) -> None:
    spans = Spans((min(pair) * MIB, max(pair) * MIB) for pair in there).clipped(size * MIB)
    ranges, claimed = Ranges(size * MIB), Spans()
    while claim := ranges.claim(spans.holes(size * MIB), connections):
        assert not spans.without(Spans()).total or claim.end <= size * MIB
        assert claimed.without(Spans([(claim.start, claim.end)])).total == claimed.total, "never twice"
        claimed.add(claim.start, claim.end)
    assert list(claimed) == spans.holes(size * MIB) or claimed.total == size * MIB - spans.total


def test_the_largest_rest_is_shared_when_nothing_is_left_to_claim() -> None:
    ranges = Ranges(4 * MIB)
    first = ranges.claim([(0, 4 * MIB)], 4)
    assert first is not None and ranges.claim([(0, 4 * MIB)], 4) is None, "too early to tell that it is slow"
    first.began -= 10
    first.at = MIB
    second = ranges.claim([(MIB, 4 * MIB)], 4)
    assert second is not None and (second.start, second.end) == (first.end, 4 * MIB)
    ranges.release(second)
    again = ranges.claim([(MIB, 4 * MIB)], 4)
    assert again is not None and again.start == first.end


def test_a_server_without_ranges_gets_one_request() -> None:
    ranges = Ranges(100)
    whole = ranges.claim([(50, 100)], 4, whole=True)
    assert whole is not None and (whole.start, whole.end, whole.alone) == (0, 100, True)
    assert ranges.claim([(50, 100)], 4, whole=True) is None
    assert ranges.claim([(50, 100)], 4) is None


def simulate(most: int, rate: "object", steps: int = 60) -> list[int]:
    """The limit second by second, where the total rate is a function of the connections in use."""
    gauge, now, work, limits = Gauge(most), 0.0, 0.0, []
    for _ in range(steps):
        gauge.look(now, work, gauge.limit)
        now += 1.0
        work += rate(gauge.limit)  # type: ignore[operator]
        limits.append(gauge.limit)
    return limits


def test_connections_are_added_while_they_help() -> None:
    limits = simulate(16, lambda count: count * 1e6)
    assert limits[0] == 8 and limits[-1] == 16 and limits == sorted(limits)


def test_and_not_when_one_fills_the_line() -> None:
    limits = simulate(16, lambda count: 1e6)
    assert limits[-1] == 8 and sum(limit > 8 for limit in limits) <= len(limits) / 8


def test_a_busy_server_is_asked_less() -> None:
    gauge = Gauge(8)
    gauge.limit = 8
    gauge.busy(0.0)
    assert gauge.limit == 4
    gauge.busy(0.1)
    assert gauge.limit == 4, "said to all that were asked at once"
    for second in range(1, 9):
        gauge.busy(float(second))
    assert gauge.limit == 1


def test_two_are_enough_while_this_machine_is_behind_and_more_are_tried_later() -> None:
    gauge, limits = Gauge(8), []
    for tenth in range(300):
        if tenth < 20:
            gauge.behind(tenth / 10)
        gauge.look(tenth / 10, tenth * gauge.limit, gauge.limit)
        limits.append(gauge.limit)
    assert limits[:3] == [4, 2, 2] and set(limits[2:80]) == {2}
    assert limits[-1] == 8, "where they help"


def test_and_one_stays_one() -> None:
    gauge = Gauge(1)
    gauge.behind(0.0)
    assert gauge.limit == 1


class _Behind:
    """A hasher that waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def update(self, data: bytes | memoryview, /) -> None:
        self.go.wait(20)

    def hexdigest(self) -> str:
        return "0" * 64


@pytest.mark.parametrize("there", [0, 48])
def test_a_file_lags_by_what_arrives_while_a_lot_waits(tmp_path: Path, there: int) -> None:
    """What an earlier run brought has to be hashed too, but the line need not wait for that."""
    first = Partial(tmp_path / "x.part", 128 * MIB, "id")
    first.write(0, bytes(there * MIB))
    first.close()
    partial, hasher, ended = Partial(tmp_path / "x.part", 128 * MIB, "id"), _Behind(), threading.Event()
    keeper = Keeper(partial, hasher, lambda name: ended.set(), pytest.fail)
    keeper.start()
    assert not keeper.lags()
    partial.write(there * MIB, bytes(48 * MIB))
    assert not keeper.lags(), "ranges that ended at once"
    partial.write((there + 48) * MIB, bytes(8 * MIB))
    assert keeper.lags() == (there == 0)
    partial.write((there + 56) * MIB, bytes((72 - there) * MIB))
    hasher.go.set()
    assert ended.wait(60) and not keeper.lags()
    partial.close()


def claim_at(rate: float, seconds: float = 20.0) -> Claim:
    claim = Claim(0, 1 << 40)
    claim.mark, claim.at = (0.0, 0), int(rate * seconds)
    return claim


def test_one_far_slower_than_its_siblings_is_dropped() -> None:
    quick = [claim_at(1e6) for _ in range(4)]
    slow = claim_at(5e4)
    assert too_slow([*quick, slow], 20.0, Patience()) == [slow]
    assert too_slow([*quick, slow], 21.0, Patience()) == [], "just looked at"


def test_a_slow_line_is_left_alone_but_a_trickle_is_not() -> None:
    assert too_slow([claim_at(5e3)], 20.0, Patience()) == []
    trickle = claim_at(100)
    assert too_slow([trickle], 20.0, Patience()) == [trickle]


def test_who_has_not_answered_yet_is_not_slow() -> None:
    silent = claim_at(0)
    assert too_slow([silent, *(claim_at(1e6) for _ in range(4))], 20.0, Patience()) == []
    silent.at += 100
    assert too_slow([silent], 25.0, Patience()) == [] and too_slow([silent], 30.0, Patience()) == [silent]


def test_backoff_doubles_and_ends() -> None:
    patience = Patience(backoff_s=1.0, longest_backoff_s=8.0)
    for failures, longest in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (400, 8.0)):
        assert longest / 2 <= patience.backoff(failures) <= longest


def test_retry_after_as_number_date_or_nonsense() -> None:
    patience = Patience(longest_wait_s=60.0)
    assert [patience.wait(header) for header in (None, "", "7", "-1", "soon", "9999")] == [0, 0, 7, 0, 0, 60]
    assert 20 < patience.wait(email.utils.formatdate(time.time() + 30, usegmt=True)) <= 30


def test_the_rate_is_that_of_the_last_seconds() -> None:
    speed = Speed(seconds=5.0)
    rates = [speed.add(float(now), min(now, 10) * 100) for now in range(20)]
    assert rates[5] == 100.0 and rates[-1] == 0.0
