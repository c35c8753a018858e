"""One request for some bytes of a file: where it leads, whether the answer is the one asked for, and its bytes."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import httpx2

from tunesmith.hub.transfer.faults import Broke, Changed, Gone, NoRanges, Refused
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.source import Remote

_HOPS = 10
_AGAIN = (408, 425, 429)
_EXPIRED = (401, 403, 404, 410)
_SMALL_BODY = 64 << 10


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

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.address = str(response.url)
        self.etag = _strong(response.headers.get("etag"))
        self.end = _end(response)
        """The byte after the last that it brings, when it is a part of the file; None otherwise."""

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives. Raises Broke when it ends early."""
        try:
            yield from self._response.iter_raw()
        except (httpx2.HTTPError, httpx2.StreamError, OSError, ValueError) as error:
            raise Broke(_name(error)) from error

    def abort(self) -> None:
        """Ends the connection from another thread: who waits for its bytes wakes at once."""
        stream = self._response.extensions.get("network_stream")
        raw = stream.get_extra_info("socket") if stream else None
        if isinstance(raw, socket.socket):
            try:
                # Not an SSL socket's own method, which would pull the session from under its reader.
                socket.socket.shutdown(raw, socket.SHUT_RDWR)
            except OSError:
                return


class Wire:
    """Keep-alive connections for a whole download."""

    def __init__(self, connections: int, patience: Patience) -> None:
        timeout = httpx2.Timeout(patience.read_s, connect=patience.connect_s, pool=None)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=connections + 4, keepalive_expiry=30)
        self._client = httpx2.Client(timeout=timeout, limits=limits, follow_redirects=False)
        self._patience = patience

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def open(self, ask: Ask) -> Iterator[Answer]:
        """The answer to `ask`. Raises the faults of `faults`, each before the first byte."""
        response = self._follow(ask)
        try:
            self._judge(ask, response)
            yield Answer(response)
        finally:
            response.close()

    def _follow(self, ask: Ask) -> httpx2.Response:
        """The first answer that is no redirect; credentials go to the source's own host alone."""
        address, seen = httpx2.URL(ask.address or ask.remote.url), set()
        for _ in range(_HOPS):
            if str(address) in seen:
                raise Refused(f"redirects in a circle at {address.host}")
            seen.add(str(address))
            response = self._send(address, ask)
            if response.status_code not in (301, 302, 303, 307, 308) or "location" not in response.headers:
                return response
            address = self._next(response, address)
        raise Refused(f"redirects more than {_HOPS} times")

    def _next(self, response: httpx2.Response, address: httpx2.URL) -> httpx2.URL:
        try:
            target = address.join(response.headers["location"])
        except (httpx2.InvalidURL, ValueError) as error:
            raise Refused("redirects to an address that is none") from error
        finally:
            _finish(response)
        if target.scheme not in ("http", "https"):
            raise Refused(f"redirects to a {target.scheme!a} address")
        return target

    def _send(self, address: httpx2.URL, ask: Ask) -> httpx2.Response:
        try:
            request = self._client.build_request("GET", address, headers=_headers(address, ask))
            return self._client.send(request, stream=True)
        except httpx2.InvalidURL as error:
            raise Refused("gives an address that is none") from error
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise Broke(_name(error)) from error

    def _judge(self, ask: Ask, response: httpx2.Response) -> None:
        status = response.status_code
        if status in _AGAIN or status >= 500:
            wait = self._patience.wait(response.headers.get("retry-after"))
            raise Broke(f"status {status}", wait, busy=status in (429, 503))
        if status in _EXPIRED and ask.address:
            raise Gone(f"status {status}")
        if status not in (200, 206):
            if _origin(response.url) != _origin(httpx2.URL(ask.remote.url)):
                raise Broke(f"status {status} where it redirects to")
            raise Refused(f"status {status}", status, response.headers.get("x-error-code"))
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise Refused("sends the file in another encoding than it was asked for")
        _judge_extent(ask, status, response.headers)
        _judge_etag(ask, response.headers)


def _judge_extent(ask: Ask, status: int, headers: Mapping[str, str]) -> None:
    length = headers.get("content-length", "")
    if status == 206:
        if ask.end is None:
            raise Refused("sends a part of a file where the whole was asked for")
        return _judge_range(ask, headers.get("content-range", ""))
    if length.isdigit() and int(length) != ask.size:
        raise Changed(f"sends {int(length):,} bytes where {ask.size:,} are listed")
    if ask.end is not None and (ask.start, ask.end) != (0, ask.size):
        raise NoRanges("sends files only whole")
    return None


def _judge_range(ask: Ask, header: str) -> None:
    unit, _, rest = header.partition(" ")
    span, _, total = rest.partition("/")
    first, _, last = span.partition("-")
    if unit.lower() != "bytes" or not (first.isdigit() and last.isdigit()):
        raise Refused(f"sends a part without saying which (Content-Range {header!a})")
    if total.isdigit() and int(total) != ask.size:
        raise Changed(f"has a file of {int(total):,} bytes where {ask.size:,} are listed")
    if int(first) != ask.start or int(last) >= (ask.end or 0):
        raise Refused(f"sends another part than it was asked for (Content-Range {header!a})")


def _end(response: httpx2.Response) -> int | None:
    if response.status_code != 206:
        return None
    last: str = response.headers.get("content-range", "").partition("/")[0].rpartition("-")[2]
    return int(last) + 1 if last.isdigit() else None


def _judge_etag(ask: Ask, headers: Mapping[str, str]) -> None:
    etag = _strong(headers.get("etag"))
    if ask.etag and etag and etag != ask.etag:
        raise Changed("has replaced the file meanwhile (its ETag changed)")


def _headers(address: httpx2.URL, ask: Ask) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": "tunesmith"}
    if str(address) == ask.remote.url or _origin(address) == _origin(httpx2.URL(ask.remote.url)):
        headers |= ask.remote.headers
    if ask.end is not None:
        headers["Range"] = f"bytes={ask.start}-{ask.end - 1}"
    return headers


def _origin(address: httpx2.URL) -> tuple[str, str, int]:
    return address.scheme, address.host.lower(), address.port or (443 if address.scheme == "https" else 80)


def _strong(etag: str | None) -> str | None:
    """None for a weak tag, which two servers of the same bytes may differ in."""
    return etag.strip('"') if etag and not etag.startswith("W/") else None


def _finish(response: httpx2.Response) -> None:
    """Reads a short body to its end, so that its connection serves again."""
    length = response.headers.get("content-length", "")
    try:
        if length.isdigit() and int(length) <= _SMALL_BODY:
            response.read()
    except (httpx2.HTTPError, OSError):
        pass
    finally:
        response.close()


def _name(error: Exception) -> str:
    return type(error).__name__
