"""Answers that say nothing about the bytes: what has arrived is held to its digest, and is not thrown away for them."""

from itertools import count

from tests.hub import breakages as b
from tests.hub.content import Held
from tests.hub.downloading import REPO, SIZE, Download, assert_right, repo_of
from tests.hub.faults import Asked, FaultyHub, Rule
from tests.hub.outcomes import Outcomes
from tests.hub.wire import Answer

SECTION = "Bytes on their way"
WEIGHTS = "model.safetensors"
MB = 1_000_000


def test_a_page_in_place_of_some_answers(download: Download, table: Outcomes) -> None:
    """Of a network that wants a login, say."""
    page = Held(b"<html>Welcome</html>")

    def login(asked: Asked, answer: Answer) -> Answer:
        return Answer(content=page, length=page.size)

    repo = repo_of()
    logins = [Rule("cdn", login, skip=number, times=1) for number in (9, 14, 19)]
    with FaultyHub({REPO: repo}, Rule("cdn", b.closed(MB)), *logins) as hub:
        assert_right(download.fetch(hub), repo.files)
        assert hub.sent(WEIGHTS) < SIZE + 4 * MB, "what had arrived was kept"
    table.note(SECTION, "a short page with status 200 in place of some answers", "recovered, with what had arrived")


def test_servers_that_name_the_same_bytes_differently(download: Download, table: Outcomes) -> None:
    repo, numbers = repo_of(), count()

    def tagged(asked: Asked, answer: Answer) -> Answer:
        return answer.saying(ETag=f'"{next(numbers)}"')

    with FaultyHub({REPO: repo}, Rule("cdn", b.closed(2 * MB)), Rule("cdn", tagged)) as hub:
        assert_right(download.fetch(hub), repo.files)
        assert hub.sent(WEIGHTS) < SIZE + 4 * MB
    table.note(SECTION, "another ETag in every answer, the same bytes", "recovered")
