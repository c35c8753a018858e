"""A folder as a source: its bytes are shared or copied, held to their digest, and nobody's edit reaches the cache."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hub.downloading import Heard, leftovers
from tests.loopback import flip_byte, loopback_hub, write_model
from tunesmith.environments import CHECKOUT
from tunesmith.errors import CorruptArtifact, DiskFull, HubUnavailable, ModelError
from tunesmith.hub.transfer import copying
from tunesmith.hub.transfer.engine import bring, fetch
from tunesmith.hub.transfer.partial import Partial
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.ranges import Claim
from tunesmith.hub.transfer.recheck import recheck
from tunesmith.hub.transfer.report import Result
from tunesmith.hub.transfer.source import Source
from tunesmith.hub.transfer.sources.folder import Folder
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.hub.transfer.supply import Asked, Supply
from tunesmith.store import sha256

REPO, WEIGHTS = "acme/tiny", "model.safetensors"
SIZE = 20_000_001
QUICK = Patience(tries=3, backoff_s=0.01, owner_s=0.3, beat_s=0.05)
Ways = Callable[[str], None]


@pytest.fixture
def repo(tmp_path: Path, hf_cache: Path) -> Path:
    return write_model(tmp_path / "mirror/acme/tiny", SIZE)


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Ways:
    """Makes kernel and file system able to do one thing only."""

    def cloned(target: int, request: int, source: int) -> int:
        assert request == 0x40049409
        os.pwrite(target, os.pread(source, os.fstat(source).st_size, 0), 0)
        return 0

    def cannot(*_: Any) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def choose(name: str) -> None:
        monkeypatch.setattr(fcntl, "ioctl", cloned if name == "clone" else cannot)
        if name == "read":
            monkeypatch.setattr(os, "copy_file_range", cannot)

    return choose


def listed(*sources: Source) -> Supply:
    return Supply(sources, Asked(REPO, "main", "model"), QUICK)


def get(supply: Supply, cache: Path, heard: Heard | None = None) -> Result:
    return bring(supply, supply.listed.files, cache, report=heard or Heard(), patience=QUICK)


def is_whole(result: Result, repo: Path) -> bool:
    same = all(sha256(result.path / path.name) == sha256(path) for path in repo.iterdir())
    return same and leftovers(result.path) == []


@pytest.mark.parametrize("name", ["clone", "move", "read"])
def test_every_way_brings_the_same_bytes_and_leaves_none_to_the_folder(
    repo: Path, hf_cache: Path, way: Ways, name: str
) -> None:
    way(name)
    result = get(listed(Folder(repo)), hf_cache)
    assert is_whole(result, repo) and result.verified == 4
    assert (result.bytes_received, result.bytes_reused) == (result.bytes_total, 0)
    with (repo / WEIGHTS).open("r+b") as file:
        file.write(b"edited")
    assert recheck(hf_cache, REPO).wrong == () and not (repo / WEIGHTS).samefile(result.path / WEIGHTS)


def test_blocks_are_shared_where_the_file_system_can(
    repo: Path, hf_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: Any) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    with (tmp_path / "one").open("wb") as one, (repo / WEIGHTS).open("rb") as other:
        try:
            fcntl.ioctl(one, 0x40049409, other.fileno())
        except OSError:
            pytest.skip("this file system cannot share blocks")
    monkeypatch.setattr(os, "copy_file_range", cannot)
    os.sync()
    before = shutil.disk_usage(tmp_path).used
    result = get(listed(Folder(repo)), hf_cache)
    os.sync()
    assert is_whole(result, repo)
    assert shutil.disk_usage(tmp_path).used - before < SIZE // 2


def test_a_file_that_was_damaged_after_it_was_listed_is_refused(repo: Path, hf_cache: Path, way: Ways) -> None:
    for name in ("move", "clone"):
        way(name)
        supply, good = listed(Folder(repo)), sha256(repo / WEIGHTS)
        flip_byte(repo / WEIGHTS, 12_345_678)
        with pytest.raises(CorruptArtifact, match=f"{WEIGHTS} of {REPO} stays different from what {repo} lists"):
            get(supply, hf_cache)
        assert not list(hf_cache.rglob(f"{good}*")) and not list(hf_cache.rglob(WEIGHTS))
        flip_byte(repo / WEIGHTS, 12_345_678)


def test_a_damaged_file_is_not_taken_for_what_a_hub_lists(repo: Path, hf_cache: Path, tmp_path: Path) -> None:
    shutil.copytree(repo, tmp_path / "hub/acme/tiny")
    flip_byte(repo / WEIGHTS)
    with loopback_hub(tmp_path / "hub") as hub:
        supply = listed(HuggingFace(hub), Folder(repo))
    with pytest.raises(HubUnavailable):
        get(supply, hf_cache)
    assert not list(hf_cache.rglob(WEIGHTS))


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size_is_refused(repo: Path, hf_cache: Path, change: int) -> None:
    supply = listed(Folder(repo))
    os.truncate(repo / WEIGHTS, (repo / WEIGHTS).stat().st_size + change)
    with pytest.raises(ModelError, match=f"{repo} has a file of .* bytes where .* are listed: name another source"):
        get(supply, hf_cache)


def test_a_file_that_cannot_be_read_comes_from_the_next_source(
    repo: Path, hf_cache: Path, tmp_path: Path, way: Ways, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, "Input/output error")

    shutil.copytree(repo, tmp_path / "hub/acme/tiny")
    heard = Heard()
    with loopback_hub(tmp_path / "hub") as hub:
        supply = listed(Folder(repo), HuggingFace(hub))
        way("move")
        monkeypatch.setattr(os, "copy_file_range", broken)
        (repo / "config.json").unlink()
        (repo / "config.json").symlink_to("config.json")
        result = get(supply, hf_cache, heard)
    (repo / "config.json").unlink()
    shutil.copy(tmp_path / "hub/acme/tiny/config.json", repo)
    assert is_whole(result, repo) and hub in result.sources
    assert any("cannot be read" in note for note in heard.notes)
    assert any("Input/output error" in note for note in heard.notes)


def test_a_disk_that_is_too_small_is_noticed_before_the_first_byte(
    repo: Path, hf_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(repo)._replace(free=SIZE)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFull, match="free some space"):
        get(listed(Folder(repo)), hf_cache)
    assert not hf_cache.exists()


def test_whoever_lost_the_partial_writes_no_more(repo: Path, tmp_path: Path) -> None:
    size = (repo / WEIGHTS).stat().st_size
    partial = Partial(tmp_path / "x.part", size, "sha256:x")
    claim = Claim(0, size)
    assert copying.copy(repo / WEIGHTS, partial, claim, lambda: False) is False
    assert (partial.received, claim.received) == (0, 0)
    partial.close()


CHILD = """
import os, signal, sys, time
from pathlib import Path
from tunesmith.hub.transfer import copying
from tunesmith.hub.transfer.engine import fetch
from tunesmith.hub.transfer.sources.folder import Folder

move, how = copying._move, sys.argv[3]

def slowly(*words):
    time.sleep(0.05)
    return move(*words)

def killed(source, target, size):
    os.pwrite(target, os.pread(source, size, 0), 0)
    os.kill(os.getpid(), signal.SIGKILL)

copying._move = slowly
copying._clone = killed if how == "clone" else lambda *words: (0, 0)
fetch([Folder(Path(sys.argv[1]))], "acme/tiny", cache=Path(sys.argv[2]))
"""


def child(repo: Path, cache: Path, how: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(repo), str(cache), how], cwd=CHECKOUT)


def test_killed_midway_it_goes_on(repo: Path, hf_cache: Path) -> None:
    process = child(repo, hf_cache, "move")
    while not (marks := list(hf_cache.rglob("*.journal"))) or marks[0].stat().st_size < 64 + 4 * 32:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = fetch([Folder(repo)], REPO, cache=hf_cache, patience=QUICK)
    assert is_whole(result, repo) and 1_000_000 < result.bytes_reused < SIZE
    assert result.bytes_received < SIZE


def test_killed_before_the_shared_blocks_are_vouched_for_it_starts_again(repo: Path, hf_cache: Path) -> None:
    process = child(repo, hf_cache, "clone")
    assert process.wait() == -signal.SIGKILL
    (part,) = hf_cache.rglob("*.part")
    assert part.read_bytes() == (repo / WEIGHTS).read_bytes(), "the bytes are there, and nothing says so"
    result = fetch([Folder(repo)], REPO, cache=hf_cache, patience=QUICK)
    assert is_whole(result, repo) and result.bytes_received >= SIZE
