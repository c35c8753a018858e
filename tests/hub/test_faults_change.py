"""A repo that changes while it is downloaded, clocks that are wrong, and several sources of which some fail."""

import time
from pathlib import Path

import pytest

from tests.hub import breakages as b
from tests.hub.content import Content, Held, MadeUp
from tests.hub.downloading import REPO, SIZE, Download, assert_right, repo_of
from tests.hub.faults import FaultyHub, Rule
from tests.hub.outcomes import Outcomes
from tests.hub.repo import Repo
from tests.loopback import loopback_hub
from tunesmith.errors import CorruptArtifact, HubUnavailable, ModelError, RepoNotFound, TunesmithError
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.hub.transfer.sources.modelscope import ModelScope
from tunesmith.store import sha256

SECTION = "Repos that change, clocks, several sources"
MB = 1_000_000
WEIGHTS = "model.safetensors"


def newer(repo: Repo) -> dict[str, Content]:
    """The next commit's files: other weights of the same size."""
    return repo.files | {WEIGHTS: MadeUp(SIZE, seed=1)}


def test_a_branch_that_moves_midway(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    before, commit = repo.files, repo.commit
    with FaultyHub({REPO: repo}, Rule("cdn", b.meanwhile(MB, lambda: repo.push(newer(repo))), times=1)) as hub:
        result = download.fetch(hub)
        assert repo.commit != commit, "the branch did move"
        assert (result.commit, sha256(result.path / WEIGHTS)) == (commit, before[WEIGHTS].sha256)
        assert_right(result, before)
        again = download.fetch(hub)
    assert again.commit == repo.commit and sha256(again.path / WEIGHTS) == repo.files[WEIGHTS].sha256
    assert sha256(result.path / WEIGHTS) == before[WEIGHTS].sha256
    table.note(
        SECTION, "a push to the branch midway", "the commit of the start, whole; the next run brings the new one"
    )


def test_a_commit_that_is_gone_midway(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    push = b.meanwhile(MB, lambda: repo.push(newer(repo), forget=True))
    with FaultyHub({REPO: repo}, Rule("cdn", push, times=1), Rule("cdn", b.closed(2 * MB))) as hub:
        with pytest.raises(TunesmithError) as caught:
            download.fetch(hub)
        assert type(caught.value) in (RepoNotFound, ModelError) and "\n" not in str(caught.value)
        hub.rules.clear()
        result = download.fetch(hub)
    assert sha256(result.path / WEIGHTS) == repo.files[WEIGHTS].sha256
    table.note(SECTION, "the commit is taken away midway", f"refused ({type(caught.value).__name__}): {caught.value}")


def test_an_etag_that_changes_midway(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    rules = Rule("cdn", b.closed(MB)), Rule("cdn", b.retagged("another"), skip=3)
    with FaultyHub({REPO: repo}, *rules) as hub:
        result = download.fetch(hub)
    assert_right(result, repo.files)
    assert rules[1].met > 3
    table.note(SECTION, "another ETag midway, the same bytes", "recovered")


def test_other_bytes_under_the_same_name_midway(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    other = MadeUp(SIZE, seed=1)
    swap = Rule("cdn", lambda asked, answer: answer.having(content=other).saying(ETag='"other"'), skip=2)
    with FaultyHub({REPO: repo}, Rule("cdn", b.closed(MB)), swap) as hub:
        with pytest.raises((CorruptArtifact, ModelError)) as caught:
            download.fetch(hub)
        assert not list(download.cache.rglob(f"snapshots/*/{WEIGHTS}"))
        hub.rules.clear()
        assert_right(download.fetch(hub), repo.files)
    said = f"refused ({type(caught.value).__name__}): {caught.value}"
    table.note(SECTION, "the CDN has other bytes of the same size from midway on", said)


def test_other_bytes_for_a_while(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    other = MadeUp(SIZE, seed=1)
    swap = Rule("cdn", lambda asked, answer: answer.having(content=other), skip=1, times=1)
    with FaultyHub({REPO: repo}, Rule("cdn", b.closed(2 * MB), times=4), swap) as hub:
        assert_right(download.fetch(hub), repo.files)
    table.note(SECTION, "one answer with another file's bytes", "noticed, thrown away and fetched anew")


@pytest.mark.parametrize("skew", [-10 * 365 * 86400.0, 10 * 365 * 86400.0])
def test_a_clock_that_is_wrong(skew: float, download: Download, table: Outcomes) -> None:
    repo = repo_of()
    change = b.clock(skew, time.time())
    rules = [Rule(where, change) for where in ("info", "resolve", "cdn")]
    with FaultyHub({REPO: repo}, *rules, Rule("cdn", b.reset(3 * MB), times=2)) as hub:
        assert_right(download.fetch(hub), repo.files)
    table.note(SECTION, "Date and Expires ten years off, either way", "recovered")


def test_the_second_source_finishes_what_the_first_began(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    rules = Rule("cdn", b.closed(5 * MB), times=2), Rule("cdn", b.status(503), skip=2)
    with FaultyHub({REPO: repo}, *rules) as first, FaultyHub({REPO: repo}) as second:
        result = download.fetch(first, second)
        assert first.sent(WEIGHTS) > MB
        assert second.sent(WEIGHTS) < SIZE, "what came from the first is used"
    assert_right(result, repo.files)
    assert set(result.sources) == {first.address, second.address}
    table.note(SECTION, "the first source fails midway, the second is well", "recovered, with the bytes of both")


def test_the_first_source_does_not_answer(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}) as second:
        result = download.fetch("http://127.0.0.1:9", second)
    assert_right(result, repo.files)
    table.note(SECTION, "the first source does not answer at all", "recovered from the second")


def test_the_first_source_has_wrong_bytes(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}, Rule("cdn", b.flipped(12345))) as first, FaultyHub({REPO: repo}) as second:
        result = download.fetch(first, second)
    assert_right(result, repo.files)
    table.note(SECTION, "the first source has a wrong byte, the second is well", "recovered from the second")


def test_a_mirror_with_another_file_is_not_mixed_in(download: Download, table: Outcomes) -> None:
    repo, other = repo_of(), Repo(repo_of().files | {WEIGHTS: MadeUp(SIZE, seed=1)})
    rules = Rule("cdn", b.closed(5 * MB), times=2), Rule("cdn", b.status(503), skip=2)
    with FaultyHub({REPO: repo}, *rules) as first, FaultyHub({REPO: other}) as second:
        with pytest.raises(HubUnavailable):
            download.fetch(first, second)
        assert not second.sent(WEIGHTS)
    table.note(
        SECTION,
        "the first source fails midway, the second has another file by that name",
        "refused; nothing of the second is used",
    )


def test_modelscope_finishes_what_a_hub_began(download: Download, table: Outcomes, tmp_path: Path) -> None:
    weights = Held(MadeUp(SIZE).read(0, SIZE))
    repo = Repo(repo_of().files | {WEIGHTS: weights})
    folder = tmp_path / "hub" / REPO
    folder.mkdir(parents=True)
    for path, content in repo.files.items():
        (folder / path).write_bytes(content.read(0, content.size))
    rules = Rule("cdn", b.closed(5 * MB), times=2), Rule("cdn", b.status(503), skip=2)
    with FaultyHub({REPO: repo}, *rules) as hub, loopback_hub(tmp_path / "hub") as site:
        result = download.fetch_from([HuggingFace(hub.address), ModelScope(site)])
    assert_right(result, repo.files)
    assert len(result.sources) == 2 and result.commit == repo.commit
    table.note(SECTION, "a hub fails midway, ModelScope has the same file", "recovered, with the bytes of both")


def test_modelscope_alone_fills_an_ordinary_cache(download: Download, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    folder = tmp_path / "hub" / REPO
    (folder / "sub").mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(MadeUp(SIZE).read(0, SIZE))
    (folder / "sub/config.json").write_text("{}")
    with loopback_hub(tmp_path / "hub") as site:
        result = download.fetch_from([ModelScope(site)])
    assert result.verified == 2
    for path in (WEIGHTS, "sub/config.json"):
        found = hf_hub_download(REPO, path, revision="main", local_files_only=True, cache_dir=download.cache)
        assert Path(found).read_bytes() == (folder / path).read_bytes()
