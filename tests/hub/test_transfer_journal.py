"""What a partial file's journal vouches for was written, whatever happened to it since."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.hub.transfer import journal
from tunesmith.hub.transfer.journal import SEALED, WRITTEN, Journal, journal_of, peek
from tunesmith.hub.transfer.partial import Partial
from tunesmith.hub.transfer.spans import Spans

SIZE = 200
IDENTITY = "sha256:" + "a" * 64
SPAN = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda pair: (min(pair), max(pair)))
RECORDS = st.lists(st.tuples(st.sampled_from([WRITTEN, SEALED]), SPAN), max_size=12)


def positions(spans: Spans | list[tuple[int, int]]) -> set[int]:
    return {at for start, end in spans for at in range(start, end)}


@given(st.lists(SPAN, max_size=20), st.lists(SPAN, max_size=20), st.integers(0, SIZE))
def test_spans_are_sets_of_positions(first: list[tuple[int, int]], second: list[tuple[int, int]], size: int) -> None:
    one, other = Spans(first), Spans(second)
    there = positions(first)
    assert positions(one) == there and one.total == len(there)
    assert one.prefix == next(at for at in range(SIZE + 1) if at not in there)
    assert positions(one.holes(size)) == set(range(size)) - there
    assert positions(one.clipped(size)) == {at for at in there if at < size}
    assert positions(one.without(other)) == there - positions(second)
    edges = [edge for span in one for edge in span]
    assert edges == sorted(set(edges)), "ranges are sorted and never touch"


@settings(max_examples=200, deadline=None)
@given(RECORDS, st.integers(0, 600), st.integers(0, 600), st.integers(1, 255))
def test_a_torn_or_damaged_journal_never_vouches_for_more(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[int, tuple[int, int]]],
    cut: int,
    damaged: int,
    flip: int,
) -> None:
    path = tmp_path_factory.mktemp("journal") / "x"
    writing = Journal(path, SIZE, IDENTITY)
    writing.read()
    for kind, span in records:
        writing.append(kind, Spans([span]))
    writing.close()
    content = bytearray(path.read_bytes()[:cut])
    if damaged < len(content):
        content[damaged] ^= flip
    path.write_bytes(content)
    reading = Journal(path, SIZE, IDENTITY)
    there = positions(reading.read())
    assert there <= positions([span for _, span in records])
    reading.append(SEALED, Spans([(3, 5)]))
    reading.close()
    assert positions(Journal(path, SIZE, IDENTITY).read()) == there | {3, 4}, "what is added later is read too"


def test_an_undamaged_journal_gives_everything_back(tmp_path: Path) -> None:
    writing = Journal(tmp_path / "x", SIZE, IDENTITY)
    writing.read()
    writing.append(SEALED, Spans([(0, 10), (20, 30)]))
    writing.append(WRITTEN, Spans([(10, 15)]))
    assert list(Journal(tmp_path / "x", SIZE, IDENTITY).read()) == [(0, 15), (20, 30)]


@pytest.mark.parametrize(("size", "identity"), [(SIZE + 1, IDENTITY), (SIZE, "sha256:" + "b" * 64)])
def test_another_contents_journal_vouches_for_nothing(tmp_path: Path, size: int, identity: str) -> None:
    writing = Journal(tmp_path / "x", SIZE, IDENTITY)
    writing.read()
    writing.append(SEALED, Spans([(0, 10)]))
    assert not Journal(tmp_path / "x", size, identity).read()


def test_after_another_boot_only_what_was_flushed_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partial = Partial(tmp_path / "x.part", SIZE, IDENTITY)
    partial.write(0, b"a" * 10)
    partial.seal()
    partial.write(10, b"b" * 10)
    partial.close()
    assert Partial(tmp_path / "x.part", SIZE, IDENTITY).found == 20
    monkeypatch.setattr(journal, "boot_tag", lambda: b"another!")
    assert Partial(tmp_path / "x.part", SIZE, IDENTITY).found == 10
    monkeypatch.setattr(journal, "boot_tag", lambda: bytes(8))
    assert Partial(tmp_path / "x.part", SIZE, IDENTITY).found == 10, "a machine that does not say is not believed"


def test_a_partial_is_written_resumed_and_finished(tmp_path: Path) -> None:
    part = tmp_path / "x.part"
    first = Partial(part, SIZE, IDENTITY)
    assert first.write(100, b"b" * 100)
    first.close()
    assert not first.write(0, b"late"), "a closed one takes nothing"
    assert peek(part, SIZE, IDENTITY).total == 100 and not peek(part, SIZE, "sha256:other")
    second = Partial(part, SIZE, IDENTITY)
    assert (second.found, second.prefix, second.holes()) == (100, 0, [(0, 100)])
    second.write(0, b"a" * 100)
    assert second.prefix == SIZE
    second.finish(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"a" * 100 + b"b" * 100
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_bytes_of_an_earlier_generation_are_not_written(tmp_path: Path) -> None:
    partial = Partial(tmp_path / "x.part", SIZE, IDENTITY)
    partial.write(0, b"wrong")
    partial.clear()
    assert not partial.write(5, b"wrong too", generation=0) and partial.received == 0
    assert partial.write(0, b"right", generation=1) and (tmp_path / "x.part").read_bytes()[:5] == b"right"
    partial.close()
    assert Partial(tmp_path / "x.part", SIZE, IDENTITY).found == 5


def test_a_part_that_was_cut_or_lost_has_fewer_bytes(tmp_path: Path) -> None:
    partial = Partial(tmp_path / "x.part", SIZE, IDENTITY)
    partial.write(0, b"a" * 50)
    partial.close()
    with (tmp_path / "x.part").open("r+b") as file:
        file.truncate(30)
    assert Partial(tmp_path / "x.part", SIZE, IDENTITY).found == 30
    assert Partial(tmp_path / "x.part", SIZE, IDENTITY).found == 30, "nor later, when it is as long as before"
    (tmp_path / "x.part").unlink()
    assert Partial(tmp_path / "x.part", SIZE, IDENTITY).found == 0
    assert Partial(tmp_path / "x.part", SIZE, IDENTITY).found == 0
    assert journal_of(tmp_path / "x.part").exists()
