"""ModelScope as a source, asked through its own API; the loopback hub answers for it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse
from starlette.routing import Route

from tests.loopback import loopback_hub, write_model
from tunesmith.errors import GatedRepo, HubUnavailable, ModelError, RepoNotFound
from tunesmith.hub.transfer.sources import asking, modelscope
from tunesmith.hub.transfer.sources.modelscope import ModelScope
from tunesmith.store import sha256

FILES = ["config.json", "model.safetensors", "sub/deep/note.txt", "tokenizer.json", "tokenizer_config.json"]
COMMIT, OLDER = "a" * 40, "b" * 40


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


def refusal(kind: type[Exception], ask: Callable[[], Any]) -> str:
    with pytest.raises(kind) as caught:
        ask()
    message = str(caught.value)
    assert type(caught.value) is kind and "\n" not in message
    return message


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
    assert not source.locate("acme/tiny", COMMIT, _entry()).headers
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


def _entry() -> Any:
    return modelscope.FileEntry(path="a", size=1)


def listing(*rows: dict[str, Any], head: Any = COMMIT) -> dict[str, Any]:
    data = {"Files": list(rows), "LatestCommitter": {"Id": head}}
    return {"Code": 200, "Success": True, "Data": data}


def row(path: Any = "config.json", **changes: Any) -> dict[str, Any]:
    return {"Path": path, "Type": "blob", "Size": 2, "Sha256": "c" * 64, "Revision": COMMIT} | changes


def answering(answer: Callable[[Request], Any]) -> Any:
    """A site that says the same to every request."""
    return loopback_hub(Path(__file__).parent, lambda _: Starlette(routes=[Route("/{path:path}", answer)]))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (listing(row("../../x")), "a file whose name has an empty part, . or .. in it"),
        (listing(row("/etc/passwd")), "a file whose name is absolute"),
        (listing(row("a\0b")), "a file whose name holds a backslash or a control character"),
        (listing(row(None, Path=".")), "a file whose name has an empty part, . or .. in it"),
        (listing(row(), row()), "lists a file of acme/tiny twice"),
        (listing(row(Size=-1)), "lists no size for config.json"),
        (listing(row(Size=True)), "lists no size for config.json"),
        (listing(row(Sha256="../up")), "lists '../up' as the sha256 of config.json"),
        (listing(row(Sha256=7)), "lists '7' as the sha256 of config.json"),
        (listing(row(), head="../../../etc"), "gave '../../../etc' for a commit, not 40 hex digits"),
        (listing(head=None), "gave None for a commit"),
        ({"Code": 10010, "Success": False, "Message": "x", "Data": None}, "does not answer like ModelScope"),
        ([1], "does not answer like ModelScope"),
    ],
)  # fmt: skip
def test_what_it_says_is_checked(said: Any, message: str) -> None:
    with answering(lambda _: JSONResponse(said)) as site:
        assert message in refusal(ModelError, lambda: ModelScope(site).listing("acme/tiny", "master"))


def test_a_branch_without_a_commit_is_pinned_by_its_newest_file() -> None:
    files = [row("a", CommittedDate=5, Revision=OLDER), row("b", CommittedDate=9), row("sub", Type="tree", Size=0)]
    with answering(lambda _: JSONResponse(listing(*files, head=""))) as site:
        listed = ModelScope(site).listing("acme/tiny", "master")
    assert listed.commit == COMMIT and [entry.path for entry in listed.files] == ["a", "b"]


def test_unless_that_commit_has_other_files() -> None:
    def answer(request: Request) -> JSONResponse:
        more = [row("deleted since")] if request.query_params["Revision"] == COMMIT else []
        return JSONResponse(listing(row(), *more, head=""))

    with answering(answer) as site:
        message = refusal(ModelError, lambda: ModelScope(site).listing("acme/tiny", "master"))
    assert message.endswith("names no commit for master of acme/tiny: give a commit as the revision.")


def test_a_branch_that_moves_while_it_is_listed_stays_at_its_commit() -> None:
    heads = iter([COMMIT, OLDER])

    def answer(request: Request) -> JSONResponse:
        path = "pinned" if request.query_params["Revision"] == COMMIT else "moving"
        return JSONResponse(listing(row(path), head=next(heads)))

    with answering(answer) as site:
        listed = ModelScope(site).listing("acme/tiny", "master")
    assert (listed.commit, [entry.path for entry in listed.files]) == (COMMIT, ["pinned"])


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_burst_of_errors_is_waited_out(status: int) -> None:
    asked = iter(range(100))

    def answer(_: Request) -> Any:
        return JSONResponse(listing(row())) if next(asked) >= 4 else PlainTextResponse("no", status)

    with answering(answer) as site:
        assert ModelScope(site).listing("acme/tiny", "master").commit == COMMIT


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda _: PlainTextResponse("no", 503), "status 503"),
        (lambda _: PlainTextResponse("<html>"), "not JSON"),
        (lambda request: RedirectResponse(str(request.url)), "redirects without end"),
    ],
)
def test_an_error_that_stays(answer: Any, why: str) -> None:
    with answering(answer) as site:
        assert refusal(HubUnavailable, lambda: ModelScope(site).listing("acme/tiny", "master")) == (
            f"ModelScope at {site} did not answer or broke off ({why}): "
            "check the network and MODELSCOPE_ENDPOINT, then run the same command again."
        )


def test_other_refusals_and_silence() -> None:
    with answering(lambda _: PlainTextResponse("no", 418)) as site:
        assert "refuses (status 418)" in refusal(ModelError, lambda: ModelScope(site).listing("acme/tiny", "master"))
    assert "(ConnectError)" in refusal(
        HubUnavailable, lambda: ModelScope("http://127.0.0.1:9").listing("acme/tiny", "master")
    )


def test_a_listing_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_MOST_BYTES", 1000)
    with answering(lambda _: JSONResponse(listing(*[row(f"{n}") for n in range(100)]))) as site:
        assert "(a listing without end)" in refusal(
            HubUnavailable, lambda: ModelScope(site).listing("acme/tiny", "master")
        )
