"""HTTP/1.1 written by hand over threads, because a server library will not send what a broken server sends."""

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from tests.hub.content import Content, Held

NOTHING = Held(b"")
_CHUNK = 1 << 18
_REASONS = {200: "OK", 206: "Partial Content", 302: "Found"}
End = Literal["reset", "close", "stall"]


class Head(NamedTuple):
    """A request without its body; no request of this API has one."""

    method: str
    target: str
    headers: dict[str, str]
    """Names in lower case."""


@dataclass(frozen=True)
class Answer:
    """A response and everything that may be wrong with it."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content: Content = NOTHING
    start: int = 0
    length: int = 0
    """The part of `content` that is sent."""
    announced: int | None = None
    """Content-Length, when it is not the truth."""
    surplus: bytes = b""
    """Sent after the body."""
    rate: float | None = None
    """Bytes a second; None as fast as it goes."""
    head_rate: float | None = None
    """Bytes a second of the headers."""
    end: End | None = None
    """What happens instead of the rest once `end_after` bytes of the body are out."""
    end_after: int = 0
    meanwhile: Callable[[int], None] | None = None
    """Called with the bytes sent so far, after every chunk."""

    def having(self, **changes: object) -> "Answer":
        return replace(self, **changes)  # type: ignore[arg-type]

    def saying(self, **headers: str) -> "Answer":
        """With more headers; `_` stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.having(headers=self.headers | named)


class Peer:
    """One client's connection."""

    def __init__(self, connection: socket.socket, closing: threading.Event) -> None:
        self.socket = connection
        self._closing = closing
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = connection.makefile("rb")

    def read(self) -> Head | None:
        """The next request, None when the client has gone."""
        first = self._lines.readline(65536).split()
        if len(first) < 2:
            return None
        headers = {}
        while line := self._lines.readline(65536).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        return Head(first[0].decode("latin-1"), first[1].decode("latin-1"), headers)

    def write(self, answer: Answer, bodyless: bool, count: Callable[[int], None]) -> bool:
        """Sends it; False when the connection is over. Hands `count` the bytes of the body as they go out."""
        announced = answer.length if answer.announced is None else answer.announced
        lines = [f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Said')}"]
        lines += [f"{name}: {value}" for name, value in ({"Content-Length": announced} | answer.headers).items()]
        self._send_head("\r\n".join([*lines, "", ""]).encode("latin-1"), answer.head_rate)
        if bodyless:
            return answer.end is None
        self._send_body(answer, count)
        if answer.surplus:
            self.socket.sendall(answer.surplus)
        if answer.end:
            self._break_off(answer.end)
        return answer.end is None and announced == answer.length and not answer.surplus

    def _send_head(self, head: bytes, rate: float | None) -> None:
        for start in range(0, len(head), 1 if rate else len(head)):
            self.socket.sendall(head[start : start + 1] if rate else head)
            if rate and self._closing.wait(1 / rate):
                return

    def send(self, data: bytes) -> None:
        """As it is."""
        self.socket.sendall(data)

    def close(self) -> None:
        with suppress(OSError):
            self._lines.close()
            self.socket.close()

    def _send_body(self, answer: Answer, count: Callable[[int], None]) -> None:
        length = min(answer.length, answer.end_after) if answer.end else answer.length
        chunk = min(_CHUNK, max(1, int(answer.rate / 50))) if answer.rate else _CHUNK
        sent, began = 0, time.monotonic()
        while sent < length and not self._closing.is_set():
            data = answer.content.read(answer.start + sent, min(chunk, length - sent))
            self.socket.sendall(data)
            sent += len(data)
            count(len(data))
            if answer.meanwhile:
                answer.meanwhile(sent)
            if answer.rate:
                self._closing.wait(max(0.0, began + sent / answer.rate - time.monotonic()))

    def _break_off(self, how: End) -> None:
        if how == "stall":
            # Until the client gives up, or the test ends.
            self.socket.settimeout(0.2)
            while not self._closing.is_set():
                with suppress(TimeoutError):
                    if not self.socket.recv(1):
                        break
        if how == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Listener:
    """A port of its own, and a thread for every connection to it."""

    def __init__(self, serve: Callable[[Peer], None], tls: ssl.SSLContext | None = None) -> None:
        """`tls`: the certificate that is shown, where the connections are encrypted."""
        self._serve, self._tls = serve, tls
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._socket.getsockname()[1]
        self.closing = threading.Event()
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Frees the port. Whoever still waits for bytes gets no more of them."""
        self.closing.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        # A client that does not trust the certificate ends the handshake.
        with suppress(OSError, ValueError), connection:
            secured = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            peer = Peer(secured, self.closing)
            try:
                self._serve(peer)
            finally:
                peer.close()
