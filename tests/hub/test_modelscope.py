"""ModelScope as a source, asked through its own API; the loopback hub answers for it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse

from tests.hub.modelscope_site import COMMIT, answering, listing, refusal
from tests.loopback import loopback_hub, write_model
from tunesmith.errors import GatedRepo, ModelError, RepoNotFound
from tunesmith.hub.transfer.sources import asking, modelscope
from tunesmith.hub.transfer.sources.modelscope import ModelScope
from tunesmith.store import sha256

FILES = ["config.json", "model.safetensors", "sub/deep/note.txt", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODELSCOPE_API_TOKEN", "MODELSCOPE_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(asking.time, "sleep", lambda seconds: None)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "hub/acme/tiny")
    (folder / "sub/deep").mkdir(parents=True)
    (folder / "sub/deep/note.txt").write_text("below")
    return folder


@pytest.fixture
def site(repo: Path) -> Iterator[str]:
    with loopback_hub(repo.parent.parent) as address:
        yield address


def test_every_file_is_listed_with_its_size_and_sha256(site: str, repo: Path) -> None:
    listed = ModelScope(site).listing("acme/tiny", "master")
    assert [entry.path for entry in listed.files] == FILES
    for entry in listed.files:
        assert (entry.size, entry.sha256) == ((repo / entry.path).stat().st_size, sha256(repo / entry.path))
    assert (
        ModelScope(site).listing("acme/tiny", "main") == listed == ModelScope(site).listing("acme/tiny", listed.commit)
    )


def test_the_commit_is_the_one_the_other_api_names(site: str) -> None:
    listed = ModelScope(site).listing("acme/tiny", "master")
    assert listed.commit == httpx.get(f"{site}/api/models/acme/tiny").json()["sha"]


def test_the_bytes_are_where_it_says_and_in_ranges(site: str, repo: Path) -> None:
    source = ModelScope(site)
    listed = source.listing("acme/tiny", "master")
    for entry in listed.files:
        remote = source.locate("acme/tiny", listed.commit, entry)
        assert httpx.get(remote.url).content == (repo / entry.path).read_bytes()
    part = httpx.get(source.locate("acme/tiny", listed.commit, listed.files[1]).url, headers={"Range": "bytes=9-20"})
    assert part.status_code == 206 and part.content == (repo / FILES[1]).read_bytes()[9:21]


def test_a_dataset_comes_in_pages(site: str, repo: Path) -> None:
    rows = repo.parent.parent / "datasets/acme/rows"
    for number in range(450):
        (rows / f"{number % 3}").mkdir(parents=True, exist_ok=True)
        (rows / f"{number % 3}/{number:03d}.jsonl").write_text(f"{number}\n")
    source = ModelScope(site)
    listed = source.listing("acme/rows", "master", "dataset")
    assert len({entry.path for entry in listed.files}) == 450
    remote = source.locate("acme/rows", listed.commit, listed.files[7], "dataset")
    assert httpx.get(remote.url).text.strip() == listed.files[7].path[2:5].lstrip("0")


def test_a_listing_that_is_cut_short_is_walked(site: str, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ModelScope(site).listing("acme/tiny", "master")
    monkeypatch.setattr("tunesmith.hub.modelscope_api._MOST_ENTRIES", 5)
    monkeypatch.setattr(modelscope, "_CUT_AT", 5)
    (repo / "tokenizer.json").unlink()
    walked = ModelScope(site).listing("acme/tiny", "master")
    assert [entry.path for entry in sorted(walked.files, key=lambda entry: entry.path)] == [
        path for path in FILES if path != "tokenizer.json"
    ]
    assert walked.commit != whole.commit
    (repo / "tokenizer.json").write_text("{}")
    assert "does not list all of the top folder of acme/tiny" in refusal(
        ModelError, lambda: ModelScope(site).listing("acme/tiny", "master")
    )


def test_what_is_not_there(site: str) -> None:
    assert refusal(RepoNotFound, lambda: ModelScope(site).listing("acme/tyni", "master")) == (
        f"There is no model repo acme/tyni with a revision master on modelscope at {site}: check the spelling, "
        "or set MODELSCOPE_API_TOKEN when it is a private one."
    )
    assert "with a revision v9" in refusal(RepoNotFound, lambda: ModelScope(site).listing("acme/tiny", "v9"))
    assert "is no revision" in refusal(RepoNotFound, lambda: ModelScope(site).listing("acme/tiny", "../x"))
    assert "is no model repo's name" in refusal(RepoNotFound, lambda: ModelScope(site).listing("tiny", "master"))
    assert "is no URL" in refusal(ModelError, lambda: ModelScope("modelscope.cn"))


def test_a_repo_that_wants_a_token(site: str, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repo / ".gated").write_text("open-sesame")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", site)
    message = refusal(GatedRepo, lambda: ModelScope().listing("acme/tiny", "master"))
    assert message.endswith(f"ask for access at {site}/models/acme/tiny and set MODELSCOPE_API_TOKEN.")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "guess")
    assert "has no access" in refusal(GatedRepo, lambda: ModelScope().listing("acme/tiny", "master"))
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "open-sesame")
    source = ModelScope()
    listed = source.listing("acme/tiny", "master")
    remote = source.locate("acme/tiny", listed.commit, listed.files[1])
    assert httpx.get(remote.url, headers=dict(remote.headers)).content == (repo / FILES[1]).read_bytes()
    assert httpx.get(remote.url, headers={"Cookie": "m_session_id=open-sesame"}).status_code == 200
    assert httpx.get(remote.url).status_code == 401


def test_the_token_goes_to_nobody_else(site: str, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repo / ".gated").write_text("open-sesame")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "open-sesame")
    source = ModelScope(site)
    assert refusal(GatedRepo, lambda: source.listing("acme/tiny", "master"))
    assert not source.locate("acme/tiny", COMMIT, modelscope.FileEntry(path="a", size=1)).headers
    shown: list[str] = []

    def elsewhere(request: Request) -> JSONResponse:
        shown.extend(request.headers.getlist("authorization") + request.headers.getlist("cookie"))
        return JSONResponse(listing())

    with (
        answering(elsewhere) as other,
        answering(lambda _: RedirectResponse(other.replace("127.0.0.1", "localhost"))) as site,
    ):
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", site)
        assert ModelScope().listing("acme/tiny", COMMIT).commit == COMMIT
    assert not shown
