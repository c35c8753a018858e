"""What goes wrong on this side: the process is killed or interrupted, it is not alone, the disk is full or closed."""

import errno
import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.hub import breakages as b
from tests.hub.client import finish, start, until
from tests.hub.content import MadeUp
from tests.hub.downloading import REPO, SIZE, Download, assert_right, leftovers, repo_of
from tests.hub.faults import FaultyHub, Rule
from tests.hub.outcomes import Outcomes
from tunesmith.errors import DiskFull, HubUnavailable, StoreNotWritable
from tunesmith.store import sha256

SECTION = "This machine"
WEIGHTS = "model.safetensors"
MB = 1_000_000
RATE = 6.0 * MB


def weights(cache: Path) -> Path:
    (path,) = cache.rglob(f"snapshots/*/{WEIGHTS}")
    return path


def parts(cache: Path) -> list[Path]:
    return list(cache.rglob("blobs/*.part"))


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_again_and_again(seed: int, hf_cache: Path, table: Outcomes) -> None:
    repo, chance = repo_of(), random.Random(seed)
    offsets = sorted(chance.randint(MB, SIZE - 2 * MB) for _ in range(3))
    with FaultyHub({REPO: repo}, rate=RATE) as hub:
        for offset in offsets:
            process = start(hub, hf_cache)
            until(lambda offset=offset: hub.sent(WEIGHTS) >= offset, process)  # type: ignore[misc]
            process.kill()
            process.communicate()
            assert not list(hf_cache.rglob(f"snapshots/*/{WEIGHTS}")), "a file has its name only when it is whole"
        facts = finish(start(hub, hf_cache))
        sent = hub.sent(WEIGHTS)
    assert sha256(weights(hf_cache)) == repo.files[WEIGHTS].sha256
    assert leftovers(Path(str(facts["path"]))) == []
    assert sent - SIZE < SIZE // 4, "what was there was not fetched again"
    assert facts["bytes_reused"]
    table.note(SECTION, "kill -9 three times at random offsets", "went on where it was; nothing left over")


def test_ctrl_c_keeps_what_has_arrived(hf_cache: Path, table: Outcomes) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}, rate=RATE) as hub:
        process = start(hub, hf_cache)
        until(lambda: hub.sent(WEIGHTS) >= SIZE // 2, process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode not in (0, None)
        assert not list(hf_cache.rglob("blobs/*.owner")), "the next one need not wait"
        before = hub.sent(WEIGHTS)
        facts = finish(start(hub, hf_cache))
        assert hub.sent(WEIGHTS) < SIZE + before // 4
    assert sha256(weights(hf_cache)) == repo.files[WEIGHTS].sha256
    assert int(str(facts["bytes_reused"])) > SIZE // 4
    table.note(SECTION, "Ctrl-C midway", "ends; the next run goes on where it was")


def test_ctrl_c_while_the_hub_is_silent(hf_cache: Path, table: Outcomes) -> None:
    with FaultyHub({REPO: repo_of()}, Rule("cdn", b.stall(MB))) as hub:
        process = start(hub, hf_cache)
        until(lambda: hub.sent(WEIGHTS) >= MB, process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode not in (0, None)
    table.note(SECTION, "Ctrl-C while every connection is silent", "ends without waiting for the hub")


def test_two_processes_at_once(hf_cache: Path, table: Outcomes) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}, rate=RATE) as hub:
        both = [start(hub, hf_cache) for _ in range(2)]
        facts = [finish(process) for process in both]
        assert hub.sent(WEIGHTS) < SIZE + SIZE // 10, "one brings it, the other waits"
    assert facts[0]["path"] == facts[1]["path"]
    assert sha256(weights(hf_cache)) == repo.files[WEIGHTS].sha256
    assert leftovers(Path(str(facts[0]["path"]))) == []
    table.note(SECTION, "two processes want the same repo at once", "one brings it, the other waits for it")


def test_the_one_that_brings_it_is_killed(hf_cache: Path, table: Outcomes) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}, rate=RATE) as hub:
        first = start(hub, hf_cache)
        until(lambda: hub.sent(WEIGHTS) >= 3 * MB, first)
        second = start(hub, hf_cache)
        until(lambda: len(hub.requests("info")) >= 2 and hub.sent(WEIGHTS) >= 5 * MB, second)
        first.kill()
        first.communicate()
        facts = finish(second)
        assert hub.sent(WEIGHTS) < SIZE + SIZE // 3
    assert sha256(weights(hf_cache)) == repo.files[WEIGHTS].sha256
    assert leftovers(Path(str(facts["path"]))) == []
    table.note(SECTION, "of two processes the one that brings it is killed", "the other takes over what is there")


def test_a_mark_of_a_machine_that_is_gone(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    _interrupted(download, repo.files[WEIGHTS].sha256)
    (part,) = parts(download.cache)
    mark = {"host": "elsewhere", "pid": 1, "token": "x", "beats": 7}
    part.with_name(part.name + ".owner").write_text(json.dumps(mark))
    with FaultyHub({REPO: repo}) as hub:
        result = download.fetch(hub)
        assert hub.sent(WEIGHTS) < SIZE
    assert_right(result, repo.files)
    table.note(
        SECTION, "a partial file marked by another machine that is gone", "waited for its sign of life, then taken over"
    )


def _interrupted(download: Download, digest: str) -> None:
    """Leaves a partial file behind, with some MB in it."""
    rules = Rule("cdn", b.closed(2 * MB), times=8), Rule("cdn", b.status(503), skip=8)
    with FaultyHub({REPO: repo_of()}, *rules) as hub, pytest.raises(HubUnavailable):
        download.fetch(hub)
    assert [part.name for part in parts(download.cache)] == [f"{digest}.part"]


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 5)


def _garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for at in range(60, len(content), 7):
        content[at] ^= 0x55
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE: dict[str, tuple[str, Any]] = {
    "the journal cut off": (".part.journal", _cut),
    "the journal garbled": (".part.journal", _garble),
    "the journal empty": (".part.journal", _empty),
    "the journal gone": (".part.journal", Path.unlink),
    "the partial file cut off": (".part", _cut),
    "the partial file gone, its journal there": (".part", Path.unlink),
    "the partial file garbled": (".part", _garble),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_what_a_crash_may_leave(fault: str, download: Download, table: Outcomes) -> None:
    repo = repo_of()
    digest = repo.files[WEIGHTS].sha256
    _interrupted(download, digest)
    suffix, damage = DAMAGE[fault]
    damage(download.cache / "models--acme--tiny/blobs" / f"{digest}{suffix}")
    with FaultyHub({REPO: repo}) as hub:
        assert_right(download.fetch(hub), repo.files)
    table.note(SECTION, f"left by a crash: {fault}", "recovered")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB."""
    folder = tmp_path / "full"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_midway(small_disk: Path, download: Download, table: Outcomes) -> None:
    repo, filler = repo_of(), small_disk / "filler"
    download = download._replace(cache=small_disk / "cache")

    def fill() -> None:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))

    with FaultyHub({REPO: repo}, Rule("cdn", b.meanwhile(MB, fill), times=1), rate=RATE) as hub:
        message = download.refusal(DiskFull, hub, table, SECTION, "the disk fills up midway")
        assert "what has arrived is kept" in message
        filler.unlink()
        before = hub.sent(WEIGHTS)
        result = download.fetch(hub)
        assert hub.sent(WEIGHTS) - before < SIZE
    assert_right(result, repo.files)


def test_a_disk_that_is_too_small_from_the_start(small_disk: Path, download: Download, table: Outcomes) -> None:
    repo = repo_of(60 * MB)
    download = download._replace(cache=small_disk / "cache")
    with FaultyHub({REPO: repo}) as hub:
        download.refusal(DiskFull, hub, table, SECTION, "a disk smaller than the repo")
        assert not hub.sent(WEIGHTS)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_that_finds_no_room(
    code: int, download: Download, table: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, write, calls = repo_of(), os.pwrite, iter(range(1_000_000))

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if next(calls) > 40:
            raise OSError(code, os.strerror(code))
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with FaultyHub({REPO: repo}) as hub:
        name = errno.errorcode[code]
        download.refusal(DiskFull, hub, table, SECTION, f"a write to the disk ends with {name}")
        monkeypatch.setattr(os, "pwrite", write)
        assert_right(download.fetch(hub), repo.files)


def test_a_disk_that_breaks(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with FaultyHub({REPO: repo_of()}) as hub:
        monkeypatch.setattr(os, "pwrite", pwrite)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            download.fetch(hub)
        monkeypatch.undo()


def test_a_cache_that_is_read_only(small_disk: Path, download: Download, table: Outcomes) -> None:
    download = download._replace(cache=small_disk / "cache")
    repo = repo_of()
    with FaultyHub({REPO: repo}) as hub:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        download.refusal(StoreNotWritable, hub, table, SECTION, "a cache that is read-only")
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        assert_right(download.fetch(hub), repo.files)
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        again = download.fetch(hub)
    assert again.bytes_received == 0
    table.note(SECTION, "a cache that is read-only and has everything", "nothing to do, and it is done")


def test_a_big_file_takes_no_memory_of_its_size(download: Download) -> None:
    repo = repo_of(300 * MB)
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with FaultyHub({REPO: repo}) as hub:
        result = download.fetch(hub)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 150 * MB and isinstance(repo.files[WEIGHTS], MadeUp)
    assert sha256(result.path / WEIGHTS) == repo.files[WEIGHTS].sha256


def test_many_big_files_take_the_memory_of_a_few(download: Download) -> None:
    """What one takes is given back when it is done, not when all are."""
    import resource

    repo = repo_of(MB, **{f"{n}.safetensors": MadeUp(4 * MB, seed=n) for n in range(120)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with FaultyHub({REPO: repo}) as hub:
        download.fetch(hub)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 150 * MB
