"""Says whether a bearer token is the endpoint's API key: what the router asks before it lets any request in.

The router of itself passes `/v1` requests on to the engine, which checks the key, but answers `/add_worker` and the
like to anyone. With a key checker it refuses everything that comes without the key.
"""

import hmac
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tunesmith.serving.control import KEY


class Handler(BaseHTTPRequestHandler):
    """Answers any GET: 200 with the right `Authorization: Bearer …`, else 401."""

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        right = hmac.compare_digest(given.encode(), f"Bearer {os.environ[KEY]}".encode())
        self.send_response(200 if right else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing: a log of requests is the router's business."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
