"""JSON answers from a hub that may be overloaded, slow or hostile: asked for a few times, never read without end."""

import json
import time
from collections.abc import Mapping
from typing import Any

import httpx2

from tunesmith.hub.between import barred, unreadable

_TRIES = 3
_LONGEST_PAUSE_SECONDS = 30.0
_MOST_BYTES = 256 << 20
"""No listing is longer."""
_TIMEOUT = httpx2.Timeout(30.0, connect=10.0)


class NoAnswer(Exception):
    """The hub did not answer, or not with JSON, after every try; says why in a few words."""


class Denied(Exception):
    """The hub answered that it will not, with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class Asker:
    """One hub's metadata. The headers go to the hub's own host: a redirect elsewhere is followed without them."""

    def __init__(self, address: str, headers: Mapping[str, str]) -> None:
        self._address = address
        self._headers = dict(headers)

    def ask(self, path: str, **query: str) -> Any:
        """What stands at `path`. Raises NoAnswer, Denied, or ModelError for a certificate that is not trusted."""
        with _client(self._headers) as client:
            for attempt in range(_TRIES):
                try:
                    return _read(client, self._address + path, query)
                except _Again as error:
                    if attempt + 1 == _TRIES:
                        raise NoAnswer(str(error)) from error
                    time.sleep(min(error.pause or 0.25 * 2**attempt, _LONGEST_PAUSE_SECONDS))
        raise AssertionError("the last try raises")


class _Again(Exception):
    """This try came to nothing; the hub may have said how many seconds to wait."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


def _client(headers: Mapping[str, str]) -> httpx2.Client:
    try:
        return httpx2.Client(headers=headers, timeout=_TIMEOUT, follow_redirects=True)
    except OSError as error:
        raise (unreadable() or error) from error


def _read(client: httpx2.Client, address: str, query: Mapping[str, str]) -> Any:
    try:
        with client.stream("GET", address, params=query) as response:
            if response.status_code in (408, 429) or response.status_code >= 500:
                raise _Again(f"status {response.status_code}", _retry_after(response))
            if response.status_code != httpx2.codes.OK:
                raise Denied(response.status_code)
            return _decode(response)
    except httpx2.TooManyRedirects as error:
        raise NoAnswer("redirects without end") from error
    except httpx2.TransportError as error:
        raise (barred(error, error.request.url.host) or _Again(type(error).__name__)) from error
    except httpx2.InvalidURL as error:
        raise NoAnswer("a redirect to no URL") from error


def _decode(response: httpx2.Response) -> Any:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise NoAnswer("a listing without end")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NoAnswer("not JSON") from error


def _retry_after(response: httpx2.Response) -> float | None:
    # The other form is a date, which means nothing when one of the clocks is wrong.
    said = response.headers.get("Retry-After", "")
    return float(said) if said.isascii() and said.isdigit() else None
