"""What goes wrong while a file's bytes are on their way."""

import pytest

from tests.hub import breakages as b
from tests.hub.content import Held
from tests.hub.downloading import REPO, SIZE, Download, assert_right, blobs, leftovers, repo_of
from tests.hub.faults import FaultyHub, Rule
from tests.hub.outcomes import Outcomes
from tunesmith.errors import CorruptArtifact, HubUnavailable, ModelError, TunesmithError

SECTION = "Bytes on their way"
CDN, RESOLVE = "cdn", "resolve"
MB = 1_000_000

PASSING = {
    "one TCP reset": Rule(CDN, b.reset(2 * MB), times=1),
    "every connection reset after 1 MB": Rule(CDN, b.reset(1 * MB)),
    "a TCP reset before the first byte, four times": Rule(CDN, b.reset(0), times=4),
    "one connection closed early": Rule(CDN, b.closed(2 * MB), times=1),
    "every connection closed after 1 MB": Rule(CDN, b.closed(1 * MB)),
    "silence on one open connection": Rule(CDN, b.stall(1 * MB), times=1),
    "silence instead of one answer's body": Rule(CDN, b.stall(0), times=1),
    "one connection at 5 kB/s": Rule(CDN, b.trickle(5000), times=1),
    "fewer bytes announced than asked for and sent, once": Rule(CDN, b.announced(-100_000), times=1),
    "more bytes announced than sent, once": Rule(CDN, b.announced(100_000), times=1),
    "more bytes sent than announced, on every connection": Rule(CDN, b.surplus(5000)),
    "Range ignored: always the whole file": Rule(CDN, b.no_ranges),
    "status 500, three times": Rule(CDN, b.status(500), times=3),
    "status 502, three times": Rule(CDN, b.status(502), times=3),
    "status 503, three times": Rule(CDN, b.status(503), times=3),
    "status 504 of the hub itself, three times": Rule(RESOLVE, b.status(504), times=3),
    "status 429 with Retry-After in seconds, twice": Rule(CDN, b.status(429, Retry_After="1"), times=2),
    "status 429 with Retry-After as a date long gone": Rule(
        RESOLVE, b.status(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), times=2
    ),
    "status 403 of the CDN, once": Rule(CDN, b.status(403), times=1),
    "status 404 of the CDN, once": Rule(CDN, b.status(404), times=1),
    "a redirect to an address where nobody listens, once": Rule(RESOLVE, b.moved_to("http://127.0.0.1:9/x"), times=1),
}  # fmt: skip


@pytest.mark.parametrize("fault", PASSING)
def test_recovered(fault: str, download: Download, table: Outcomes) -> None:
    repo, rule = repo_of(), PASSING[fault]
    with FaultyHub({REPO: repo}, rule) as hub:
        result = download.fetch(hub)
    assert_right(result, repo.files)
    assert rule.met > rule.skip, "the fault was never met"
    table.note(SECTION, fault, "recovered")


REFUSED: dict[str, tuple[Rule, type[TunesmithError], str]] = {
    "status 503, for ever": (Rule(CDN, b.status(503)), HubUnavailable, "(status 503)"),
    "every connection reset before the first byte": (Rule(CDN, b.reset(0)), HubUnavailable, "did not answer or broke"),
    "silence instead of every body": (Rule(CDN, b.stall(0)), HubUnavailable, "did not answer or broke off"),
    "status 418 of the hub itself": (Rule(RESOLVE, b.status(418)), ModelError, "(status 418)"),
    "a file that is listed and not there": (
        Rule(RESOLVE, b.status(404, X_Error_Code="EntryNotFound"), path="model.safetensors"),
        ModelError,
        "that it does not serve",
    ),
    "redirects in a circle": (Rule(RESOLVE, b.loop), ModelError, "redirects in a circle"),
    "a redirect to a file:// address": (Rule(RESOLVE, b.moved_to("file:///etc/passwd")), ModelError, "redirects to a"),
    "a redirect to no address": (Rule(RESOLVE, b.moved_to("http://host:port/x")), ModelError, "redirects to an address"),
    "Content-Range that names another place, and its bytes": (
        Rule(CDN, b.shifted_range(4096)),
        ModelError,
        "sends another part than it was asked for",
    ),
    "Content-Range of a file of another size": (Rule(CDN, b.other_total(SIZE + 1)), ModelError, "has a file of"),
    "one byte of the weights turned over, always": (
        Rule(CDN, b.flipped(SIZE - 9)),
        CorruptArtifact,
        "stays different from what",
    ),
    "one byte of a small file turned over, always": (
        Rule(RESOLVE, b.flipped(5), path="config.json"),
        CorruptArtifact,
        "config.json of acme/tiny stays different",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_refused(fault: str, download: Download, table: Outcomes) -> None:
    rule, kind, words = REFUSED[fault]
    repo = repo_of()
    with FaultyHub({REPO: repo}, rule) as hub:
        assert words in download.refusal(kind, hub, table, SECTION, fault)
    for blob in blobs(download.cache):
        contents = {repo.digest(content) for content in repo.files.values()}
        assert blob.name in contents, "only right bytes may get a name"


def test_a_refused_download_is_finished_later(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}, Rule(CDN, b.reset(4 * MB), times=2), Rule(CDN, b.status(503), skip=2)) as hub:
        with pytest.raises(HubUnavailable):
            download.fetch(hub)
        first = hub.sent("model.safetensors")
        hub.rules.clear()
        result = download.fetch(hub)
        sent = hub.sent("model.safetensors")
    assert_right(result, repo.files)
    assert first > 1 * MB and sent < SIZE + first, "what had arrived was used"
    assert result.bytes_reused > 0
    table.note(SECTION, "the hub goes away midway, and the same command is run again later", "went on where it was")


def test_a_signed_address_that_expires_is_asked_for_again(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}, Rule(CDN, b.closed(1 * MB))) as hub:
        hub.signature_uses = 2
        result = download.fetch(hub)
        asked = [seen for seen in hub.requests(RESOLVE, "model.safetensors") if seen.status == 302]
    assert_right(result, repo.files)
    assert len(asked) >= 2
    table.note(SECTION, "signed address valid for two requests, each cut off after 1 MB", "recovered")


def test_without_ranges_a_broken_file_is_begun_anew(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}, Rule(CDN, b.no_ranges), Rule(CDN, b.reset(9 * MB), times=2)) as hub:
        result = download.fetch(hub)
    assert_right(result, repo.files)
    table.note(SECTION, "Range ignored, and the connection reset at 9 MB, twice", "recovered")


def test_a_byte_turned_over_once(download: Download, table: Outcomes) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}, Rule(CDN, b.flipped_once(1000))) as hub:
        assert_right(download.fetch(hub), repo.files)
    assert "model.safetensors does not match its listed size or sha256: thrown away." in download.heard.notes
    table.note(SECTION, "one byte of the weights turned over, once", "noticed, thrown away and fetched anew")


def test_a_wrong_byte_is_never_seen_by_others(download: Download) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}, Rule(CDN, b.flipped(7))) as hub, pytest.raises(CorruptArtifact):
        download.fetch(hub)
    assert not list(download.cache.rglob("snapshots/*/model.safetensors"))
    assert not [path for path in download.cache.rglob("blobs/*") if path.stat().st_size == SIZE]


def test_files_of_no_bytes_and_of_one(download: Download, table: Outcomes) -> None:
    repo = repo_of(1 * MB, empty=Held(b""), one=Held(b"x"), **{"deep/er/empty": Held(b"")})
    with FaultyHub({REPO: repo}) as hub:
        assert_right(download.fetch(hub), repo.files)
    table.note(SECTION, "files of no bytes and of one", "nothing special")


def test_what_is_there_is_not_asked_for(download: Download) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}) as hub:
        first = download.fetch(hub)
        sent = hub.sent()
        again = download.fetch(hub)
        assert hub.sent() == sent
    assert (again.bytes_received, again.bytes_reused, again.path) == (0, first.bytes_total, first.path)
    assert leftovers(first.path) == []
