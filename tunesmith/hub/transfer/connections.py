"""Keep-alive connections whose answers are read straight from the socket, and ended from another thread.

urllib3 rather than the client that huggingface_hub uses: a block of an answer is received into the bytes that are
written to the disk, where an HTTP parser in Python copies it four times, in pieces of 64 KiB.
"""

import http.client
import logging
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationValueError
from urllib3.response import HTTPResponse

from tunesmith.hub.between import barred
from tunesmith.hub.transfer.faults import Broke, Explained, Refused
from tunesmith.hub.transfer.patience import Patience

# What is wrong with an answer becomes a sentence; a warning with a stack trace beside it helps nobody.
logging.getLogger("urllib3").setLevel(logging.ERROR)
_BLOCK = 256 << 10
"""The most that is received at once: what a kill can take from a connection is no more."""
_SMALL_BODY = 64 << 10
_HEAD_TIMES = 2.0
"""How much longer than one silence may be the headers may take as a whole."""


_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.ProxyError, "the proxy does not let it through"),
    (exceptions.NameResolutionError, "its name is not known"),
    (exceptions.ConnectTimeoutError, "no connection in time"),
    (exceptions.NewConnectionError, "nobody listens there"),
    (exceptions.ReadTimeoutError, "it fell silent"),
    (exceptions.SSLError, "TLS failed"),
    (exceptions.ProtocolError, "the connection was lost"),
)


_heads_due: dict[socket.socket, float] = {}
"""Until when an answer's headers are waited for, however many of their bytes trickle in."""


def end_overdue() -> None:
    """Ends the connections whose answers have begun and do not get to the end of their headers; cheap, often called."""
    now = time.monotonic()
    for raw, due in list(_heads_due.items()):
        if now > due and _heads_due.pop(raw, 0.0):
            _shut(raw)


def _shut(raw: socket.socket) -> None:
    with suppress(OSError):
        # Not an SSL socket's own method, which would pull the session from under its reader.
        socket.socket.shutdown(raw, socket.SHUT_RDWR)


class _KeepsSocket(HTTPConnection):
    """Leaves the answer's socket where `Body.abort` finds it."""

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        raw = self.sock
        _heads_due[raw] = time.monotonic() + _HEAD_TIMES * (raw.gettimeout() or 0.0)
        try:
            response = super().getresponse()
        finally:
            in_time = _heads_due.pop(raw, None)
        if in_time is None:
            # The end of the connection looks like the end of the headers.
            raise exceptions.ReadTimeoutError(None, None, "headers without end")  # type: ignore[arg-type]
        response.raw_socket = raw  # type: ignore[attr-defined]
        return response


class _Plain(urllib3.HTTPConnectionPool):
    ConnectionCls = _KeepsSocket


class _KeepsSecureSocket(_KeepsSocket, HTTPSConnection):
    """With TLS."""


class _Secure(urllib3.HTTPSConnectionPool):
    ConnectionCls = _KeepsSecureSocket


class Body:
    """An answer whose headers are here and whose bytes are still to be read."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they arrive, at most 256 KiB at once. Raises Broke when they end early."""
        try:
            while block := self._response.read1(_BLOCK, decode_content=False):
                yield block
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise Broke(_name(error)) from error

    def abort(self) -> None:
        """Ends the connection from another thread: who waits for its bytes wakes at once."""
        raw = getattr(self._response, "raw_socket", None)
        # TLS to a server through TLS to a proxy keeps the socket inside.
        raw = getattr(raw, "socket", raw)
        if isinstance(raw, socket.socket):
            _shut(raw)

    def finish(self) -> None:
        """Reads a short body to its end, so that its connection serves again."""
        length = self.headers.get("content-length", "")
        if is_number(length) and int(length) <= _SMALL_BODY:
            self._response.drain_conn()
        self.close()

    def close(self) -> None:
        """Ends a connection whose answer has not been read to the end."""
        self._response.close()


class Connections:
    """The connections of one download; thread-safe."""

    def __init__(self, most: int, patience: Patience) -> None:
        """Keeps `most` of them for each host."""
        self._timeout = urllib3.Timeout(connect=patience.connect_s, read=patience.read_s)
        self._most = most
        self._managers: dict[tuple[str | None, bool], urllib3.PoolManager] = {}

    def get(self, address: str, headers: Mapping[str, str]) -> Body:
        """The answer, whatever it says. Raises Broke, Refused for an address that is none, or Explained."""
        try:
            response = self._manager(address).urlopen(
                "GET", address, headers=headers, retries=False, redirect=False, preload_content=False,
                decode_content=False, timeout=self._timeout,
            )  # fmt: skip
        except (LocationValueError, UnicodeError) as error:
            raise Refused("gives an address that is none") from error
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            raise _fault(error, address) from error
        return Body(response)

    def close(self) -> None:
        for manager in list(self._managers.values()):
            manager.clear()

    def _manager(self, address: str) -> urllib3.PoolManager:
        key = _proxy(address), address.startswith("https:")
        if key not in self._managers:
            self._managers[key] = self._made(*key)
        return self._managers[key]

    def _made(self, proxy: str | None, secure: bool) -> urllib3.PoolManager:
        make = partial(_through, proxy) if proxy else urllib3.PoolManager
        # Reading the authorities takes longer than many a download of a small file.
        manager = make(num_pools=32, maxsize=self._most, ssl_context=_trust() if secure else None)
        manager.pool_classes_by_scheme = {"http": _Plain, "https": _Secure}
        return manager


def is_number(text: str) -> bool:
    """Whether `int` takes it: not every digit is one, nor does it take thousands of them."""
    return text.isascii() and text.isdigit() and len(text) < 20


def _through(proxy: str, **kept: Any) -> urllib3.ProxyManager:
    named = urlsplit(proxy)
    login = f"{unquote(named.username)}:{unquote(named.password or '')}" if named.username else None
    headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **kept)


@cache
def _trust() -> ssl.SSLContext:
    """The authorities that the rest of the download trusts too: SSL_CERT_FILE's, else the usual ones."""
    return httpx2.create_ssl_context()


def _proxy(address: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY set for an address."""
    try:
        named = urlsplit(address)
        host = named.netloc.rpartition("@")[2]
    except ValueError as error:
        raise Refused("gives an address that is none") from error
    proxies = getproxies()
    proxy = proxies.get(named.scheme) or proxies.get("all")
    if not proxy or not host or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _fault(error: Exception, address: str) -> Broke | Explained:
    """What an attempt without an answer means."""
    refusal = barred(error, urlsplit(address).hostname or address)
    return Explained(refusal) if refusal else Broke(_name(error))


def _name(error: Exception) -> str:
    """What happened, for people."""
    return next((words for kinds, words in _WORDS if isinstance(error, kinds)), type(error).__name__)
