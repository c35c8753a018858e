"""What a hub may say about a repo before the first byte: errors, lies, and repos that are not for everyone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hub import breakages as b
from tests.hub.content import Held
from tests.hub.downloading import REPO, Download, assert_right, repo_of
from tests.hub.faults import Asked, Change, FaultyHub, Rule
from tests.hub.outcomes import Outcomes
from tests.hub.repo import Row
from tests.hub.wire import Answer
from tunesmith.errors import DiskFull, GatedRepo, HubUnavailable, ModelError, RepoNotFound, TunesmithError
from tunesmith.store import sha256

SECTION = "Listings"
MB = 1_000_000


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_burst_of_errors_is_waited_out(status: int, download: Download, table: Outcomes) -> None:
    repo, rule = repo_of(2 * MB), Rule("info", b.status(status), times=3)
    with FaultyHub({REPO: repo}, rule) as hub:
        assert_right(download.fetch(hub), repo.files)
    assert rule.met > 3
    table.note(SECTION, f"status {status} to the listing, three times", "recovered")


def test_a_listing_that_breaks_off_once(download: Download, table: Outcomes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.hub.client._TIMEOUT_SECONDS", 1.0)
    repo = repo_of(2 * MB)
    rules = Rule("info", b.reset(20), times=1), Rule("info", b.stall(20), times=1, skip=1)
    with FaultyHub({REPO: repo}, *rules) as hub:
        assert_right(download.fetch(hub), repo.files)
    table.note(SECTION, "the listing reset midway once, and silent midway once", "recovered")


def test_a_listing_that_never_comes(download: Download, table: Outcomes) -> None:
    with FaultyHub({REPO: repo_of(2 * MB)}, Rule("info", b.status(503))) as hub:
        download.refusal(HubUnavailable, hub, table, SECTION, "status 503 to the listing, for ever")
    message = download.refusal(HubUnavailable, "http://127.0.0.1:9", table, SECTION, "nobody listens")
    assert "then run the same command again" in message


def changed(path: str, **changes: Any) -> Callable[[list[Row]], list[Row]]:
    """A claim in which one row differs."""
    return lambda rows: [row | changes if row["rfilename"] == path else row for row in rows]


def added(*paths: str, **row: Any) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [*rows, *({"rfilename": path, "size": 2, "blobId": "a" * 40} | row for path in paths)]


HOSTILE: dict[str, tuple[Callable[[list[Row]], list[Row]], type[TunesmithError], str]] = {
    "a name with `..` in it": (added("../../x"), ModelError, "has an empty part, . or .. in it"),
    "an absolute name": (added("/etc/cron.d/x"), ModelError, "is absolute"),
    "a name with a NUL": (added("a\0b"), ModelError, "holds a backslash or a control character"),
    "a name with a newline": (added("a\nb"), ModelError, "holds a backslash or a control character"),
    "a name with a drive letter": (added("C:/x"), ModelError, "is absolute"),
    "a name with a backslash": (added("..\\x"), ModelError, "holds a backslash"),
    "a size below zero": (changed("config.json", size=-1), ModelError, "lists no size for config.json"),
    "a size that is no number": (changed("config.json", size="2"), ModelError, "lists no size for config.json"),
    "no size": (changed("config.json", size=None), ModelError, "lists no size for config.json"),
    "a size of a million terabytes": (changed("model.safetensors", size=10**18), DiskFull, "free some space"),
    "a size above 64 bits": (changed("model.safetensors", size=10**30), ModelError, "lists no size for"),
    "a size of 400 digits": (changed("model.safetensors", size=10**400), ModelError, "lists no size for"),
    "a sha256 that is a path": (
        changed("model.safetensors", lfs={"sha256": "../../up", "size": 1, "pointerSize": 1}),
        ModelError,
        "as the sha256 of model.safetensors",
    ),
    "a file that is also a folder": (added("config.json/x"), ModelError, ""),
    "one name twice with other content": (
        added("model.safetensors", size=3 * MB, lfs={"sha256": "b" * 64, "size": 3 * MB, "pointerSize": 1}),
        ModelError,
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_listing_is_refused(fault: str, download: Download, table: Outcomes, tmp_path: Path) -> None:
    claim, kind, words = HOSTILE[fault]
    repo = repo_of(2 * MB)
    repo.claim = claim
    with FaultyHub({REPO: repo}) as hub:
        with pytest.raises(kind) as caught:
            download.fetch(hub)
        assert words in str(caught.value) and "\n" not in str(caught.value)
        assert not hub.sent("model.safetensors"), "nothing is asked for before the listing is believed"
    table.note(SECTION, fault, f"refused ({type(caught.value).__name__}): {caught.value}")
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(download.cache)]
    assert not outside


@pytest.mark.parametrize("name", ["CON", "nul.txt", ".part", "x.part.journal", "-rf", "a" * 200, "ü/ß \u202e.json"])
def test_odd_names_are_only_names(name: str, download: Download, table: Outcomes) -> None:
    repo = repo_of(2 * MB, **{name: Held(b"odd")})
    with FaultyHub({REPO: repo}) as hub:
        result = download.fetch(hub)
    assert_right(result, repo.files)
    assert [path.name for path in download.cache.iterdir() if path.name.startswith("models--")] == [
        "models--acme--tiny"
    ]
    table.note(SECTION, "reserved, hidden, odd and long names (`CON`, `.part`, `-rf`, …)", "files like others")


def test_a_name_longer_than_the_disk_takes(download: Download, table: Outcomes) -> None:
    repo = repo_of(2 * MB, **{"a" * 300: Held(b"long")})
    with FaultyHub({REPO: repo}) as hub:
        download.refusal(ModelError, hub, table, SECTION, "a name of 300 letters")


@pytest.mark.parametrize("commit", ["../../../etc", "main", "", None, "A" * 40, 7])
def test_a_commit_that_is_none(commit: Any, download: Download, table: Outcomes) -> None:
    repo = repo_of(2 * MB)
    with FaultyHub({REPO: repo}, Rule("info", said_commit(commit))) as hub:
        message = download.refusal(ModelError, hub, table, SECTION, f"`{commit}` for a commit")
    assert "not 40 hex digits" in message or "does not answer like" in message
    assert not list(download.cache.rglob("refs/*"))


def said_commit(commit: Any) -> Change:
    """The listing with this for a commit."""

    def change(asked: Asked, answer: Answer) -> Answer:
        facts = json.loads(answer.content.read(0, answer.content.size)) | {"sha": commit}
        body = Held(json.dumps(facts).encode())
        return answer.having(content=body, length=body.size)

    return change


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"null", b"{}", b'{"sha": 1', b"\xff" * 9, b'{"siblings": 3}'])
def test_an_answer_that_is_no_listing(body: bytes, download: Download, table: Outcomes) -> None:
    said = Held(body)
    with (
        FaultyHub(
            {REPO: repo_of(2 * MB)}, Rule("info", lambda _, answer: answer.having(content=said, length=said.size))
        ) as hub,
        pytest.raises(ModelError) as caught,
    ):
        download.fetch(hub)
    assert "\n" not in str(caught.value)
    table.note(SECTION, "JSON that is no listing, and what is no JSON", f"refused (ModelError): {caught.value}")


def test_without_a_listed_sha256_the_size_and_the_commit_hold(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    repo.claim = lambda rows: [
        {key: value for key, value in row.items() if key not in ("lfs", "blobId")} for row in rows
    ]
    with FaultyHub({REPO: repo}, Rule("cdn", b.reset(3 * MB), times=2)) as hub:
        result = download.fetch(hub)
    assert sha256(result.path / "model.safetensors") == repo.files["model.safetensors"].sha256
    assert result.verified < len(repo.files), "what nobody gives a digest for does not count as verified"
    table.note(SECTION, "no sha256 and no git id listed", "recovered; the file is not counted as verified")


def test_names_of_repos_and_revisions(download: Download, table: Outcomes) -> None:
    with FaultyHub({REPO: repo_of(2 * MB)}) as hub:
        with pytest.raises(RepoNotFound) as caught:
            download.fetch(hub, revision="v9")
        table.note(SECTION, "no such revision", f"refused (RepoNotFound): {caught.value}")
        hub.repos.clear()
        download.refusal(RepoNotFound, hub, table, SECTION, "no such repo")


def test_a_gated_repo(download: Download, table: Outcomes, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = repo_of(2 * MB)
    repo.token = "open-sesame"
    with FaultyHub({REPO: repo}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        download.refusal(GatedRepo, hub, table, SECTION, "gated, and no token")
        monkeypatch.setenv("HF_TOKEN", "guess")
        assert "has no access" in download.refusal(GatedRepo, hub, table, SECTION, "gated, and a token without access")
        monkeypatch.setenv("HF_TOKEN", "open-sesame")
        assert_right(download.fetch(hub), repo.files)
        shown = hub.tokens()
    table.note(SECTION, "gated, and a token with access", "recovered; the CDN never saw the token")
    assert "Bearer open-sesame" in shown[hub.address.removeprefix("http://")]
    assert not shown[hub.cdn.removeprefix("http://")]


def test_a_private_repo(download: Download, table: Outcomes, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = repo_of(2 * MB)
    repo.token, repo.private = "open-sesame", True
    with FaultyHub({REPO: repo}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        download.refusal(RepoNotFound, hub, table, SECTION, "private, and no token")
        monkeypatch.setenv("HF_TOKEN", "open-sesame")
        assert_right(download.fetch(hub), repo.files)
    table.note(SECTION, "private, and a token with access", "recovered")


def test_a_token_is_shown_to_the_hub_of_its_owner_alone(
    download: Download, table: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = repo_of(2 * MB)
    monkeypatch.setenv("HF_TOKEN", "open-sesame")
    with FaultyHub({REPO: repo}) as other, FaultyHub({REPO: repo}) as hub:
        assert_right(download.fetch(other), repo.files)
        assert not any(other.tokens().values())
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        hub.add(Rule("resolve", lambda asked, _: b.moved_to(other.address + asked.head.target)(asked, _)))
        download.cache.rename(download.cache.with_name("aside"))
        assert_right(download.fetch(hub), repo.files)
        assert any(hub.tokens().values()) and not any(other.tokens().values())
    table.note(SECTION, "the hub redirects its files to another host", "recovered; that host never saw the token")
