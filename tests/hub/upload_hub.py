"""A hub on a loopback port that takes uploads, as huggingface_hub and ModelScope's clients make them, and misbehaves.

Blobs go to another host name (`localhost`, where the hub is `127.0.0.1`), as the public hubs have it. What was asked is
logged with the credentials that came along.
"""

import json
import socket
import struct
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from tests.hub.upload_api import TOKEN, Refused, Repo, Shelf, reply

Where = Literal["create", "tree", "preupload", "batch", "put", "commit", "other"]
_SLOW_PIECE = 4096


class Asked(NamedTuple):
    """One request."""

    where: Where
    method: str
    path: str
    host: str
    secret: str
    """Authorization and cookie."""
    size: int
    """Bytes of its body, where it was read."""


@dataclass
class Fault:
    """What goes wrong with requests of one kind: a status, a reset half-way through the body, or a slow reader."""

    where: Where
    how: int | Literal["reset", "slow"]
    times: int = 1
    skip: int = 0

    def strikes(self, where: Where) -> bool:
        if where != self.where or self.times <= 0:
            return False
        self.skip -= 1
        if self.skip >= 0:
            return False
        self.times -= 1
        return True


class UploadHub:
    """Takes uploads until the block ends."""

    def __init__(self, *faults: Fault, port: int = 0) -> None:
        self.faults, self.log = list(faults), list[Asked]()
        self.lock = threading.RLock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.hub = self
        self.port = self._server.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.shelf = Shelf(self.address, f"http://localhost:{self.port}")

    def __enter__(self) -> "UploadHub":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def repos(self) -> dict[str, Repo]:
        return self.shelf.repos

    @property
    def blobs(self) -> dict[str, bytes]:
        return self.shelf.blobs

    def asked(self, where: Where) -> list[Asked]:
        return [one for one in self.log if one.where == where]

    def strikes(self, where: Where) -> Fault | None:
        with self.lock:
            return next((fault for fault in self.faults if fault.strikes(where)), None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: UploadHub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        path, hub = urlsplit(self.path).path, self.server.hub
        where = _where(self.command, path)
        fault = hub.strikes(where)
        body = self._body(fault)
        secret = f"{self.headers.get('Authorization', '')} {self.headers.get('Cookie', '')}".strip()
        hub.log.append(Asked(where, self.command, path, self.headers.get("Host", ""), secret, len(body or b"")))
        if body is None:
            return self._reset()
        if fault and isinstance(fault.how, int):
            return self._say(fault.how, {"error": "as asked"})
        try:
            with hub.lock:
                self._say(200, reply(hub.shelf, self.command, path, body, secret))
        except Refused as refused:
            self._say(refused.status, {"error": str(refused), "Success": False, "Message": str(refused)})

    def _body(self, fault: Fault | None) -> bytes | None:
        """None where the connection is to be reset, half-way through what was announced."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            return None if fault and fault.how == "reset" else b"".join(self._chunks())
        size = int(self.headers.get("Content-Length", 0))
        if fault and fault.how == "reset":
            self.rfile.read(size // 2)
            return None
        if not fault or fault.how != "slow":
            return self.rfile.read(size)
        read = b""
        while len(read) < size:
            read += self.rfile.read(min(_SLOW_PIECE, size - len(read)))
            time.sleep(0.005)
        return read

    def _chunks(self) -> Any:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _say(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _where(method: str, path: str) -> Where:
    if method == "PUT":
        return "put"
    if path in ("/api/repos/create", "/api/v1/models"):
        return "create"
    if "/tree/" in path or path.endswith("/repo/files"):
        return "tree"
    named: tuple[Where, ...] = ("preupload", "batch", "commit")
    return next((one for one in named if f"/{one}" in path), "other")


__all__ = ["TOKEN", "Fault", "UploadHub"]
