"""What is vouched for, by a digest or by a journal, is what lies on the disk, and is nobody else's to change."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import pytest

from tests.hub import breakages as b
from tests.hub.downloading import REPO, SIZE, Download, Heard, assert_right, repo_of
from tests.hub.faults import Asked, FaultyHub, Rule
from tests.hub.wire import Answer
from tunesmith.artifacts import FileEntry
from tunesmith.errors import HubUnavailable
from tunesmith.hub.transfer import engine
from tunesmith.hub.transfer.damage import throw_away_wrong
from tunesmith.hub.transfer.journal import journal_of
from tunesmith.hub.transfer.owner import Owner, host_id
from tunesmith.hub.transfer.partial import Partial
from tunesmith.hub.transfer.place import Shelf
from tunesmith.hub.transfer.recheck import hashed
from tunesmith.hub.transfer.verify import Digest, Keeper

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


@pytest.mark.parametrize("rule", [Rule("cdn", b.reset(MB), times=1), Rule("cdn", b.flipped_once(1000))])
def test_who_lost_the_mark_while_it_hashed_leaves_the_file_alone(
    rule: Rule, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped for a while, say, so that another process took the partial over; right or wrong, it is that one's."""
    repo, arrived, go, hash_some = repo_of(), threading.Event(), threading.Event(), Keeper._hash

    def held_up(self: Keeper, file: FileIO) -> bool:
        if self._partial.prefix == self._partial.size and not go.is_set():
            arrived.set()
            go.wait(20)
        return hash_some(self, file)

    monkeypatch.setattr(Keeper, "_hash", held_up)
    with FaultyHub({REPO: repo}, rule) as hub, ThreadPoolExecutor(1) as pool:
        fetched = pool.submit(download.fetch, hub)
        assert arrived.wait(20)
        (part,) = download.cache.rglob("*.part")
        part.with_name(f"{part.name}.owner").unlink()
        other, content = Owner(part, download.patience), part.read_bytes()
        assert other.take()
        # As long as it takes to be thought dead, and so not to be sure any more.
        time.sleep(download.patience.owner_s)
        journal = journal_of(part).read_bytes()
        go.set()
        touched = any(time.sleep(0.02) or fetched.done() or part.with_suffix("").exists() for _ in range(50))
        touched = touched or (part.read_bytes(), journal_of(part).read_bytes()) != (content, journal)
        other.give_up()
        assert not touched
        assert_right(fetched.result(), repo.files)


def test_a_partial_is_finished_whole_and_once(tmp_path: Path) -> None:
    partial = Partial(tmp_path / "x.part", 10, "id")
    partial.write(0, b"a" * 9)
    assert not partial.finish(tmp_path / "x") and partial.write(9, b"a")
    assert partial.finish(tmp_path / "x") and not partial.finish(tmp_path / "y")
    other = [os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT) for _ in range(4)]
    os.pwrite(other[0], b"other", 0)
    partial.clear()
    assert (tmp_path / "x").read_bytes() == b"a" * 10 and (tmp_path / "other").read_bytes() == b"other"
    for descriptor in other:
        os.close(descriptor)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_kill_while_a_file_gets_its_name_leaves_nothing(steps: int, download: Download) -> None:
    """Renamed, and the journal not yet gone; or that too, and the mark of the dead process still there."""
    repo = repo_of()
    with FaultyHub({REPO: repo}) as hub:
        result = download.fetch(hub)
        blob = (result.path / WEIGHTS).resolve()
        (result.path / WEIGHTS).unlink()
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        mark = {"host": host_id(), "pid": gone.pid, "token": "x", "beats": 7}
        blob.with_name(f"{blob.name}.part.owner").write_text(json.dumps(mark))
        if steps == 1:
            blob.with_name(f"{blob.name}.part.journal").write_bytes(b"records")
        assert_right(download.fetch(hub), repo.files)


def test_a_file_outside_the_cache_is_not_thrown_away(tmp_path: Path) -> None:
    """Somebody put a link to a file of their own into the snapshot."""
    own, snapshot = tmp_path / "own.bin", tmp_path / "cache/models--acme--tiny/snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    own.write_bytes(b"mine")
    (snapshot / WEIGHTS).symlink_to(own)
    heard = Heard()
    throw_away_wrong(snapshot, [FileEntry(path=WEIGHTS, size=4, sha256="a" * 64)], heard.note)
    assert own.exists() and not (snapshot / WEIGHTS).is_symlink() and len(heard.notes) == 1


@pytest.mark.parametrize("right", [True, False])
def test_a_blob_that_somebody_else_puts_there_meanwhile_is_hashed(
    right: bool, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program of that world, say, which does not look at what it downloads."""
    repo, take = repo_of(), Owner.take
    content = repo.files[WEIGHTS].read(0, SIZE) if right else bytes(SIZE)

    def take_late(owner: Owner) -> bool:
        blob = owner.path.with_name(repo.files[WEIGHTS].sha256)
        if not blob.exists():
            blob.write_bytes(content)
        monkeypatch.setattr(Owner, "take", take)
        return take(owner)

    monkeypatch.setattr(Owner, "take", take_late)
    with FaultyHub({REPO: repo}) as hub:
        result = download.fetch(hub)
        assert bool(hub.sent(WEIGHTS)) != right
    assert_right(result, repo.files)
    assert result.verified == len(repo.files)


def test_a_kill_while_a_link_is_made_adds_no_file_to_the_snapshot(tmp_path: Path) -> None:
    script = f"""if True:
        import os, signal
        from pathlib import Path
        from tunesmith.hub.transfer.place import Shelf
        shelf = Shelf(Path({str(tmp_path)!r}), "acme/tiny", "model", "0" * 40, "x")
        shelf.blobs.mkdir(parents=True)
        shelf.keep("a" * 64, b"x")
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        shelf.link("sub/x", "a" * 64)
    """
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    shelf = Shelf(tmp_path, "acme/tiny", "model", "0" * 40, "x")
    assert not list((shelf.snapshot / "sub").iterdir())
    (left,) = shelf.folder.rglob("*.tmp")
    os.utime(left, (0, 0), follow_symlinks=False)
    shelf.tidy()
    assert [file.name for file in shelf.folder.rglob("*") if not file.is_dir()] == ["a" * 64]


@pytest.mark.parametrize("when", ["before it is hashed", "after"])
def test_two_throw_the_same_damage_away(when: str, download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = repo_of(3 * MB)
    with FaultyHub({REPO: repo}) as hub:
        result = download.fetch(hub)
        blob = (result.path / WEIGHTS).resolve()
        (result.path / WEIGHTS).unlink()
        blob.write_bytes(bytes(3 * MB))

        def hashed_beside(path: Path, digest: Digest) -> str:
            """Which another process does too, and is quicker."""
            said = hashed(path, digest) if when == "after" else ""
            path.unlink()
            return said or hashed(path, digest)

        monkeypatch.setattr(engine, "hashed", hashed_beside)
        assert_right(download.fetch(hub), repo.files)


def test_records_of_another_process_are_not_written_over(tmp_path: Path) -> None:
    first = Partial(tmp_path / "x.part", MB, "id")
    first.write(0, b"a" * 10)
    second = Partial(tmp_path / "x.part", MB, "id")
    second.write(MB // 2, b"b" * (MB // 2))
    first.close(note=False)
    assert Partial(tmp_path / "x.part", MB, "id").found == MB // 2
    for partial in (first, second):
        partial.close()
