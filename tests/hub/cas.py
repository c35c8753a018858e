"""The storage behind Xet, as hf_xet asks it: how a file is made of chunks, and the chunks, in bundles called xorbs.

    GET /v1/reconstructions/<hash>    with a Range: the chunks that hold it, and where they are
    GET /xorbs/<hash>/<number>        with a Range: whole chunks, each after a header of 8 bytes

Chunks are as long as the longest that Xet makes, and not compressed.
"""

import hashlib
import json
import ssl
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, NamedTuple, Self
from urllib.parse import urlsplit

from tests.hub.content import Content, Held
from tests.hub.wire import Answer, Head, Listener, Peer

TOKEN = "for-the-storage-alone"
_CHUNK = 128 << 10
_HEADER = 8
_XORB_CHUNKS = 40
Where = Literal["reconstruction", "xorb"]
Change = Callable[[Answer], Answer]


class Request(NamedTuple):
    where: Where
    head: Head


class Cas:
    """Serves the contents that a hub says it has, until the block ends. `rate` is bytes a second of a connection."""

    def __init__(
        self,
        rate: float | None = None,
        has: Callable[[Content], bool] = lambda content: True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rate, self._has, self._tls = rate, has, tls
        self._contents: dict[str, Content] = {}
        self.seen: list[Request] = []
        self.sent = 0
        """Bytes of chunks that went out."""
        self.changes: dict[Where, Change] = {}
        """What is done to every answer."""
        self.refresh_route: str | None = None
        """Where a token is to be had, when it is not the hub."""
        self.token_answer: Answer | None = None
        """In place of a token."""

    def __enter__(self) -> Self:
        self._listener = Listener(self._serve, self._tls)
        self.address = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._listener.port}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.close()

    def named(self, content: Content, api: str, commit: str) -> dict[str, str]:
        """The headers with which a hub says that it has a file here."""
        if not self._has(content):
            return {}
        name = hashlib.sha256(f"in Xet: {content.sha256}".encode()).hexdigest()
        self._contents[name] = content
        route = self.refresh_route or f"{api}/xet-read-token/{commit}"
        return {"X-Xet-Hash": name, "X-Xet-Refresh-Route": route, "Link": f'<{route}>; rel="xet-auth"'}

    def token(self) -> Answer:
        """The hub's answer to who wants to read here."""
        if self.token_answer:
            return self.token_answer
        until = int(time.time()) + 3600
        body = Held(json.dumps({"casUrl": self.address, "exp": until, "accessToken": TOKEN}).encode())
        return Answer(headers={"Content-Type": "application/json"}, content=body, length=body.size)

    def _serve(self, peer: Peer) -> None:
        while head := peer.read():
            parts = urlsplit(head.target).path.strip("/").split("/")
            where: Where = "xorb" if parts[0] == "xorbs" else "reconstruction"
            self.seen.append(Request(where, head))
            answer = self._xorb(parts, head) if where == "xorb" else self._reconstruction(parts, head)
            answer = self.changes.get(where, lambda answer: answer)(answer)
            if not peer.write(answer, False, self._count if where == "xorb" else lambda sent: None):
                return

    def _count(self, sent: int) -> None:
        self.sent += sent

    def _reconstruction(self, parts: list[str], head: Head) -> Answer:
        content = self._contents.get(parts[-1])
        if parts[:2] != ["v1", "reconstructions"] or content is None:
            return Answer(404)
        if head.headers.get("authorization") != f"Bearer {TOKEN}":
            return Answer(401)
        first, last = _span(head)
        terms, places = [], {}
        for number in range(first // _CHUNK // _XORB_CHUNKS, min(last, content.size - 1) // _CHUNK // _XORB_CHUNKS + 1):
            term, place = self._term(parts[-1], number, first // _CHUNK, min(last, content.size - 1) // _CHUNK)
            terms.append(term)
            places[term["hash"]] = [place]
        found = {"offset_into_first_range": first % _CHUNK, "terms": terms, "fetch_info": places}
        body = Held(json.dumps(found).encode())
        return Answer(headers={"Content-Type": "application/json"}, content=body, length=body.size)

    def _term(self, name: str, number: int, first: int, last: int) -> tuple[dict[str, object], dict[str, object]]:
        """Those of a xorb's chunks that lie between two chunks of the file, and where in the xorb they are."""
        begin = number * _XORB_CHUNKS
        start, end = max(first - begin, 0), min(last - begin + 1, _XORB_CHUNKS)
        size = min((begin + end) * _CHUNK, self._contents[name].size) - (begin + start) * _CHUNK
        at = start * (_CHUNK + _HEADER)
        chunks = {"start": start, "end": end}
        term = {"hash": hashlib.sha256(f"{name} {number}".encode()).hexdigest(), "unpacked_length": size}
        url_range = {"start": at, "end": at + size + (end - start) * _HEADER - 1}
        place = {"url": f"{self.address}/xorbs/{name}/{number}?Signature=x", "url_range": url_range}
        return term | {"range": chunks}, place | {"range": chunks}

    def _xorb(self, parts: list[str], head: Head) -> Answer:
        content, begin = self._contents[parts[1]], int(parts[2]) * _XORB_CHUNKS
        first, last = _span(head)
        numbers = range(first // (_CHUNK + _HEADER), last // (_CHUNK + _HEADER) + 1)
        body = Held(b"".join(_chunk(content, begin + number) for number in numbers))
        said = {"Content-Range": f"bytes {first}-{last}/*"}
        return Answer(206, said, body, length=body.size, rate=self._rate)


def _chunk(content: Content, number: int) -> bytes:
    """Version, length as it is stored, how it is compressed, length."""
    data = content.read(number * _CHUNK, _CHUNK)
    length = len(data).to_bytes(3, "little")
    return b"\0" + length + b"\0" + length + data


def _span(head: Head) -> tuple[int, int]:
    """First and last byte."""
    first, _, last = head.headers["range"].removeprefix("bytes=").partition("-")
    return int(first), int(last)
