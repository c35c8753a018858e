"""What is vouched for, by a digest or by a journal, is what lies on the disk, and is nobody else's to change."""

from pathlib import Path

import pytest

from tests.hub import breakages as b
from tests.hub.downloading import REPO, Download, assert_right, repo_of
from tests.hub.faults import Asked, FaultyHub, Rule
from tests.hub.wire import Answer
from tunesmith.errors import HubUnavailable
from tunesmith.hub.transfer.journal import Partial

MB = 1_000_000
WEIGHTS = "model.safetensors"


def test_bytes_that_were_hashed_are_not_written_again(download: Download) -> None:
    """A server that takes to sending files whole sends another beginning, which was hashed when it was right."""

    def whole(asked: Asked, answer: Answer) -> Answer:
        return b.no_ranges(asked, b.flipped(1000)(asked, answer))

    repo = repo_of()
    with FaultyHub({REPO: repo}, Rule("cdn", b.closed(MB), times=8), Rule("cdn", whole, skip=8)) as hub:
        assert_right(download.fetch(hub), repo.files)


def test_a_partial_keeps_what_it_has(tmp_path: Path) -> None:
    partial = Partial(tmp_path / "x.part", 30, "id")
    partial.write(5, b"a" * 10)
    assert partial.write(0, b"b" * 30) and partial.holes() == []
    partial.finish(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"b" * 5 + b"a" * 10 + b"b" * 15


def test_a_journal_without_its_file_vouches_for_nothing(download: Download) -> None:
    """Nobody says what the file is, so what its journal says is all there is; the process dies before the first byte."""
    repo = repo_of()
    repo.claim = lambda rows: [{name: row[name] for name in ("rfilename", "size")} for row in rows]
    with FaultyHub({REPO: repo}, Rule("cdn", b.closed(2 * MB), times=8), Rule("cdn", b.status(503), skip=8)) as hub:
        for damage in (lambda part: part.unlink(), lambda part: None):
            with pytest.raises(HubUnavailable):
                download.fetch(hub)
            (part,) = download.cache.rglob("*.part")
            damage(part)
        hub.rules.clear()
        assert_right(download.fetch(hub), repo.files)
