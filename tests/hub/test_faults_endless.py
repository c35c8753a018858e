"""Faults that must end: with a file, or with a sentence."""

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.hub import breakages as b
from tests.hub.downloading import REPO, Download, assert_right, repo_of
from tests.hub.faults import Asked as Requested
from tests.hub.faults import FaultyHub, Rule
from tests.hub.wire import Answer
from tunesmith.errors import DiskFull, HubUnavailable, ModelError
from tunesmith.hub.transfer.engine import fetch
from tunesmith.hub.transfer.owner import Owner
from tunesmith.hub.transfer.partial import Partial
from tunesmith.hub.transfer.report import Result
from tunesmith.hub.transfer.source import Listed
from tunesmith.hub.transfer.sources.folder import Folder
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.hub.transfer.supply import Asked, Supply

MB = 1_000_000
CDN = "cdn"
_LONG = 30.0
"""Seconds after which something counts as endless; all of it takes one or two."""


def ended(download: Download, hub: FaultyHub, **more: Any) -> Result:
    """What became of a download, whose thread is left alone when it does not end."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(
                fetch([HuggingFace(hub.address)], REPO, cache=download.cache, patience=download.patience, **more)
            )
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future.result(_LONG)


@pytest.mark.parametrize("times", [1, None])
def test_headers_that_trickle_in_are_not_waited_for(download: Download, times: int | None) -> None:
    slow = Rule(CDN, lambda asked, answer: answer.having(head_rate=10.0), times=times)
    brief = download._replace(patience=replace(download.patience, read_s=0.3, tries=2))
    with FaultyHub({REPO: repo_of()}, slow) as hub:
        if times:
            assert_right(ended(brief, hub), hub.repos[REPO].files)
        else:
            with pytest.raises(HubUnavailable, match="it fell silent"):
                ended(brief, hub)


def test_a_part_of_no_bytes_is_no_answer(download: Download) -> None:
    def empty(asked: Requested, answer: Answer) -> Answer:
        if answer.status != 206 or not answer.start:
            return answer
        said = f"bytes {answer.start}-{answer.start - 1}/{answer.content.size}"
        return answer.having(length=0).saying(Content_Range=said)

    with FaultyHub({REPO: repo_of()}, Rule(CDN, empty)) as hub:
        with pytest.raises(ModelError, match="sends another part than it was asked for"):
            ended(download, hub)
        assert len(hub.requests(CDN)) < 100


@pytest.mark.parametrize(
    "said", ["bytes \xb2-\xb3/24000000", "bytes 0-9/\xb2", f"bytes {'9' * 5000}-5/6", f"bytes 0-{'9' * 5000}/6"]
)
def test_numbers_that_are_none(said: str, download: Download) -> None:
    with FaultyHub({REPO: repo_of()}, Rule(CDN, lambda _, answer: answer.saying(Content_Range=said))) as hub:
        with pytest.raises(ModelError) as caught:
            ended(download, hub)
        assert len(str(caught.value)) < 400


def test_a_length_that_is_no_number(download: Download) -> None:
    with FaultyHub({REPO: repo_of()}, Rule("resolve", lambda _, answer: answer.saying(Content_Length="\xb2"))) as hub:
        assert_right(ended(download, hub), hub.repos[REPO].files)


def test_a_file_that_cannot_be_begun_anew_ends_it(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only thread finds no room for the journal's new beginning while it takes a changed file back."""

    def full(_: Partial) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Partial, "clear", full)
    rules, repo = (Rule(CDN, b.closed(MB)), Rule(CDN, b.retagged("another"), skip=2)), repo_of()
    repo.claim = lambda rows: [{name: row[name] for name in ("rfilename", "size")} for row in rows]
    with FaultyHub({REPO: repo}, *rules) as hub, pytest.raises(DiskFull):
        ended(download, hub, connections=1)


class _Late(int):
    """A status that takes a while to be said."""

    def __format__(self, spec: str) -> str:
        time.sleep(0.9)
        return str(int(self))


def test_a_hub_that_thinks_before_it_answers_is_not_slow(download: Download) -> None:
    """For longer than a connection may be slow, and not as long as it may be silent."""
    patient = download._replace(patience=replace(download.patience, read_s=10.0))
    with FaultyHub({REPO: repo_of()}, Rule(CDN, lambda _, answer: answer.having(status=_Late(answer.status)))) as hub:
        assert_right(ended(patient, hub), hub.repos[REPO].files)


@pytest.mark.parametrize("fails", [False, True])
def test_a_file_that_is_opened_too_late_is_let_go(
    fails: bool, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk stands still while the download ends; the next one, of the same process, must not wait for its mark."""
    create, take_over, opened, ended_once = Owner._create, Partial.__init__, Event(), Event()

    def slow(owner: Owner) -> bool:
        ended_once.wait(_LONG)
        return create(owner)

    def full(*_: Any) -> None:
        opened.set()
        raise OSError(28, "No space left on device")

    def late(partial: Partial, *about: Any) -> None:
        take_over(partial, *about)
        opened.set()

    monkeypatch.setattr(Owner, "_create", slow)
    monkeypatch.setattr(Partial, "__init__", full if fails else late)
    with FaultyHub({REPO: repo_of()}, Rule("resolve", b.status(418), path="config.json")) as hub:
        with pytest.raises(ModelError):
            ended(download, hub)
        ended_once.set()
        assert opened.wait(_LONG)
        monkeypatch.undo()
        hub.rules.clear()
        assert_right(ended(download, hub), hub.repos[REPO].files)


def test_a_source_that_is_slow_to_list_holds_nobody_up(tmp_path: Path) -> None:
    """What the first source has is located while the second makes its list."""
    (tmp_path / "x").write_text("x")
    slow, asked, go = Folder(tmp_path), Event(), Event()

    class Slow:
        name = "slow"

        def listing(self, *words: Any) -> Listed:
            asked.set()
            go.wait(_LONG)
            return slow.listing(*words)

        def locate(self, *words: Any) -> Path:
            return slow.locate(*words)

    supply = Supply([Folder(tmp_path), Slow()], Asked("acme/tiny", "main", "model"))
    (entry,) = supply.listed.files
    with ThreadPoolExecutor(2) as pool:
        second = pool.submit(supply.locate, 1, entry, True)
        assert asked.wait(_LONG)
        first = pool.submit(lambda: supply.is_news("x") and supply.locate(0, entry, True))
        in_time = wait([first], timeout=3.0).done
        go.set()
        assert in_time and first.result() == second.result() == tmp_path / "x"
