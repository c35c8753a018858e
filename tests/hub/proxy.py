"""A forward proxy as an office has one: CONNECT for HTTPS, whole addresses for HTTP, and a list of who was asked for."""

import base64
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.hub.wire import Head, Listener, Peer


class Proxy:
    """Serves until the block ends. `login` is `user:password`, when it wants one."""

    def __init__(self, login: str = "") -> None:
        self._login = login
        self.tunnels: list[str] = []
        """`host:port` of every CONNECT that was let through."""
        self.passed: list[str] = []
        """The same of every request that it passed on in the clear."""

    def __enter__(self) -> Self:
        self._listener = Listener(self._serve)
        self.address = f"http://127.0.0.1:{self._listener.port}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.close()

    def _serve(self, peer: Peer) -> None:
        head = peer.read()
        if head is None:
            return
        login = base64.b64encode(self._login.encode()).decode()
        if self._login and head.headers.get("proxy-authorization") != f"Basic {login}":
            peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        elif head.method == "CONNECT":
            self._tunnel(peer, head)
        else:
            self._pass_on(peer, head)

    def _tunnel(self, peer: Peer, head: Head) -> None:
        self.tunnels.append(head.target)
        host, _, port = head.target.rpartition(":")
        with socket.create_connection((host, int(port))) as far:
            peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            threading.Thread(target=_pump, args=(peer.socket, far), daemon=True).start()
            _pump(far, peer.socket)

    def _pass_on(self, peer: Peer, head: Head) -> None:
        """One request a connection."""
        named = urlsplit(head.target)
        self.passed.append(named.netloc)
        headers = {name: value for name, value in head.headers.items() if not name.startswith("proxy-")}
        lines = [f"{name}: {value}" for name, value in (headers | {"connection": "close"}).items()]
        request = "\r\n".join([f"{head.method} {named.path}?{named.query} HTTP/1.1", *lines, "", ""])
        with socket.create_connection((named.hostname or "", named.port or 80)) as far:
            far.sendall(request.encode("latin-1"))
            far.shutdown(socket.SHUT_WR)
            _pump(far, peer.socket)


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Everything that comes, until either end has gone."""
    with suppress(OSError, ValueError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
