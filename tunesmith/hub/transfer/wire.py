"""One request for some bytes of a file: where it leads, whether the answer is the one asked for, and its bytes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from tunesmith.hub.transfer.connections import Body, Connections, is_number
from tunesmith.hub.transfer.faults import Broke, Changed, Gone, NoRanges, Refused
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.source import Remote

_HOPS = 10
_AGAIN = (408, 425, 429)
_EXPIRED = (401, 403, 404, 410)


class Ask(NamedTuple):
    """What is wanted."""

    remote: Remote
    size: int
    """Of the whole file, in bytes."""
    start: int = 0
    end: int | None = None
    """The byte after the last; None asks for the whole file, without a range."""
    address: str | None = None
    """Where an earlier request for the same file was led to."""
    etag: str | None = None
    """What that earlier answer called the content."""


class Answer:
    """The right bytes, on their way."""

    together = False
    """Whether the first of them are there when all are: then nothing is gained by asking another for a part."""

    def __init__(self, body: Body, address: str) -> None:
        self._body, self.address = body, address
        self.etag = _strong(body.headers.get("etag"))
        self.end = _end(body)
        """The byte after the last that it brings, when it is a part of the file; None otherwise."""
        self.chunks, self.abort = body.chunks, body.abort


class Wire:
    """What one download asks of its servers, over keep-alive connections."""

    def __init__(self, connections: int, patience: Patience) -> None:
        self._connections, self._patience = Connections(connections + 4, patience), patience

    def close(self) -> None:
        self._connections.close()

    @contextmanager
    def open(self, ask: Ask) -> Iterator[Answer]:
        """The answer to `ask`. Raises the faults of `faults`, each before the first byte."""
        body, address = self._follow(ask)
        try:
            self._judge(ask, body, address)
            yield Answer(body, address)
        finally:
            body.close()

    def _follow(self, ask: Ask) -> tuple[Body, str]:
        """The first answer that is no redirect, and its address; credentials go to the source's own host alone."""
        address, seen = ask.address or ask.remote.url, set()
        for _ in range(_HOPS):
            if address in seen:
                raise Refused(f"redirects in a circle at {urlsplit(address).hostname}")
            seen.add(address)
            body = self._connections.get(address, _headers(address, ask))
            if body.status not in (301, 302, 303, 307, 308) or "location" not in body.headers:
                return body, address
            body.finish()
            address = _next(address, body.headers["location"])
        raise Refused(f"redirects more than {_HOPS} times")

    def _judge(self, ask: Ask, body: Body, address: str) -> None:
        status, headers = body.status, body.headers
        if status in _AGAIN or status >= 500:
            wait = self._patience.wait(headers.get("retry-after"))
            raise Broke(f"status {status}", wait, busy=status in (429, 503))
        if status in _EXPIRED and ask.address:
            raise Gone(f"status {status}")
        if status not in (200, 206):
            if _origin(address) != _origin(ask.remote.url):
                raise Broke(f"status {status} where it redirects to")
            raise Refused(f"status {status}", status, headers.get("x-error-code"))
        if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise Refused("sends the file in another encoding than it was asked for")
        _judge_extent(ask, status, headers)
        _judge_etag(ask, headers)


def _next(address: str, location: str) -> str:
    """Where a redirect leads."""
    try:
        target = urljoin(address, location)
        scheme, *_ = _origin(target)
    except ValueError as error:
        raise Refused("redirects to an address that is none") from error
    if scheme not in ("http", "https"):
        raise Refused(f"redirects to a {scheme!a} address")
    return target


def _judge_extent(ask: Ask, status: int, headers: Mapping[str, str]) -> None:
    length = headers.get("content-length", "")
    if status == 206:
        if ask.end is None:
            raise Refused("sends a part of a file where the whole was asked for")
        return _judge_range(ask, headers.get("content-range", ""))
    if is_number(length) and int(length) != ask.size:
        raise Changed(f"sends {int(length):,} bytes where {ask.size:,} are listed")
    if ask.end is not None and (ask.start, ask.end) != (0, ask.size):
        raise NoRanges("sends files only whole")
    return None


def _judge_range(ask: Ask, header: str) -> None:
    unit, _, rest = header.partition(" ")
    span, _, total = rest.partition("/")
    first, _, last = span.partition("-")
    if unit.lower() != "bytes" or not (is_number(first) and is_number(last)):
        raise Refused(f"sends a part without saying which (Content-Range {header[:80]!a})")
    if is_number(total) and int(total) != ask.size:
        raise Changed(f"has a file of {int(total):,} bytes where {ask.size:,} are listed")
    # Nor an empty part, which would be asked for again and again.
    if int(first) != ask.start or not int(first) <= int(last) < (ask.end or 0):
        raise Refused(f"sends another part than it was asked for (Content-Range {header!a})")


def _end(body: Body) -> int | None:
    if body.status != 206:
        return None
    last: str = body.headers.get("content-range", "").partition("/")[0].rpartition("-")[2]
    return int(last) + 1 if is_number(last) else None


def _judge_etag(ask: Ask, headers: Mapping[str, str]) -> None:
    etag = _strong(headers.get("etag"))
    if ask.etag and etag and etag != ask.etag:
        raise Changed("has replaced the file meanwhile (its ETag changed)")


def _headers(address: str, ask: Ask) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "tunesmith"}
    if address == ask.remote.url or _origin(address) == _origin(ask.remote.url):
        headers |= ask.remote.headers
    if ask.end is not None:
        headers["Range"] = f"bytes={ask.start}-{ask.end - 1}"
    return headers


def _origin(address: str) -> tuple[str, str, int]:
    named = urlsplit(address)
    return named.scheme, (named.hostname or "").lower(), named.port or (443 if named.scheme == "https" else 80)


def _strong(etag: str | None) -> str | None:
    """None for a weak tag, which two servers of the same bytes may differ in."""
    return etag.strip('"') if etag and not etag.startswith("W/") else None
