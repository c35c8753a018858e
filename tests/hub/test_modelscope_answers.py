"""What a ModelScope site may say that cannot be used, or not at once."""

from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse

from tests.hub.modelscope_site import COMMIT, OLDER, answering, listing, refusal, row
from tunesmith.errors import HubUnavailable, ModelError
from tunesmith.hub.transfer.sources import asking
from tunesmith.hub.transfer.sources.modelscope import ModelScope


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking.time, "sleep", lambda seconds: None)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (listing(row("../../x")), "a file whose name has an empty part, . or .. in it"),
        (listing(row("/etc/passwd")), "a file whose name is absolute"),
        (listing(row("a\0b")), "a file whose name holds a backslash or a control character"),
        (listing(row(None, Path=".")), "a file whose name has an empty part, . or .. in it"),
        (listing(row(), row()), "lists a file of acme/tiny twice"),
        (listing(row(Size=-1)), "lists no size for config.json"),
        (listing(row(Size=10**400)), "lists no size for config.json"),
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
        return JSONResponse(listing(row())) if next(asked) >= 2 else PlainTextResponse("no", status)

    with answering(answer) as site:
        assert ModelScope(site).listing("acme/tiny", "master").commit == COMMIT


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda _: PlainTextResponse("no", 503), "status 503"),
        (lambda _: PlainTextResponse("no", 503, {"Retry-After": "\xb2"}), "status 503"),
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
