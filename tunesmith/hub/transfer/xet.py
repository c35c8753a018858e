"""Files that a hub keeps in Xet, brought by hf_xet; one that it cannot bring comes over HTTP like every other.

Only the way of the bytes differs: they go range by range into the same partial file, are held to the same digest, and
what has arrived stays when it ends midway.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants, get_hf_file_metadata

from tunesmith.errors import EnvironmentMissing
from tunesmith.hub.transfer.connections import Body
from tunesmith.hub.transfer.faults import Broke
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.report import Report
from tunesmith.hub.transfer.source import Remote
from tunesmith.hub.transfer.wire import Answer, Ask, Wire

_LENGTHS = (1 << 20, 64 << 20)
"""The least and the most that is asked for at once: hf_xet hands the bytes over when it has all of them."""
_FIRST_LENGTH = 4 << 20
_RANGE_SECONDS = 2.0
_MOST_FAILURES = 3
"""Files that Xet may fail to bring before it is not asked any more."""
_FAILED = (Exception, KeyboardInterrupt)
"""What hf_xet raises; the last, in any thread, from a session that was ended."""


def equip(connections: int, patience: Patience, report: Report) -> tuple[Wire, Patience]:
    """A wire that can use Xet, and the patience that suits it. Raises EnvironmentMissing when there is no hf_xet."""
    if constants.HF_HUB_DISABLE_XET:
        report.note("HF_HUB_DISABLE_XET is set: no file comes through Xet.")
        return Wire(connections, patience), patience
    # A range that arrives as a whole looks like a connection that brings nothing; hf_xet watches its own.
    return XetWire(connections, patience, report), replace(patience, slow_s=math.inf)


class _Kept(NamedTuple):
    """Where Xet has a file."""

    hash: str
    group: Any
    """hf_xet's connection to the storage."""


class _Lookup:
    """What became of asking the hub for one file's Xet data; asked once, while the others wait."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_known = self.failed = False
        self.kept: _Kept | None = None


class XetWire(Wire):
    """Asks Xet for ranges of the files that it has, and servers for everything else."""

    def __init__(self, connections: int, patience: Patience, report: Report) -> None:
        super().__init__(connections, patience)
        self._report, self._session = report, _session(patience)
        self._lookups: dict[str, _Lookup] = {}
        self._groups: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._failures, self._closed = 0, False
        self._length = _FIRST_LENGTH

    def close(self) -> None:
        self._closed = True
        with suppress(*_FAILED):
            # The one call that wakes those who wait for bytes.
            self._session.sigint_abort()
        super().close()

    @contextmanager
    def open(self, ask: Ask) -> Iterator[Answer]:
        body = self._body(ask)
        if body is None:
            with super().open(ask) as answer:
                yield answer
            return
        try:
            # No address: whoever asks a server later begins at the source.
            yield _XetAnswer(body, "")
        finally:
            body.close()

    def _body(self, ask: Ask) -> "_XetBody | None":
        if ask.end is None or not ask.remote.xet:
            return None
        kept = self._look_up(ask.remote)
        if kept is None:
            return None
        end = min(ask.end, ask.start + self._length)
        try:
            from hf_xet import XetFileInfo

            stream = kept.group.download_stream(XetFileInfo(kept.hash, ask.size), start=ask.start, end=end)
        except _FAILED as error:
            self._give_up(ask.remote, error)
            return None
        return _XetBody(stream, (ask.start, end, ask.size), self._learn, lambda why: self._give_up(ask.remote, why))

    def _look_up(self, remote: Remote) -> _Kept | None:
        """None for a file that Xet does not have, or failed to bring."""
        with self._lock:
            lookup = self._lookups.setdefault(remote.url, _Lookup())
        with lookup.lock:
            if not lookup.is_known:
                lookup.is_known = True
                try:
                    lookup.kept = self._find(remote)
                except _FAILED as error:
                    self._give_up(remote, error)
        return lookup.kept if self._failures < _MOST_FAILURES else None

    def _find(self, remote: Remote) -> _Kept | None:
        named, headers = urlsplit(remote.url), dict(remote.headers)
        origin = f"{named.scheme}://{named.netloc}"
        data = get_hf_file_metadata(remote.url, token=False, headers=headers, endpoint=origin).xet_file_data
        # The token for the hub goes there too: to nobody but the hub itself.
        if data is None or not data.refresh_route.startswith(f"{origin}/"):
            return None
        with self._lock:
            if data.refresh_route not in self._groups:
                self._groups[data.refresh_route] = self._session.new_download_stream_group(
                    token_refresh_url=data.refresh_route,
                    token_refresh_headers=headers,
                    custom_headers={name: said for name, said in headers.items() if name.lower() == "user-agent"},
                )
            return _Kept(data.file_hash, self._groups[data.refresh_route])

    def _learn(self, count: int, seconds: float) -> None:
        """So much that it takes a few seconds: less would be many requests, more would be lost when it ends."""
        least, most = _LENGTHS
        self._length = max(least, min(most, int(count / max(seconds, 1e-6) * _RANGE_SECONDS)))

    def _give_up(self, remote: Remote, why: object) -> None:
        """This file comes over HTTP from now on."""
        lookup = self._lookups[remote.url]
        with self._lock:
            if self._closed or lookup.failed:
                return
            lookup.failed, lookup.kept = True, None
            self._failures += 1
        name = unquote(urlsplit(remote.url).path.partition("/resolve/")[2].partition("/")[2])
        said = str(why).strip().partition("\n")[0] or type(why).__name__
        self._report.note(f"Xet did not bring {name} ({said}): it comes like a file that Xet does not have.")


class _XetAnswer(Answer):
    together = True


class _XetBody(Body):
    """Some bytes of a file, as a server's answer would bring them."""

    def __init__(
        self,
        stream: Any,
        span: tuple[int, int, int],
        arrived: Callable[[int, float], None],
        failed: Callable[[object], None],
    ) -> None:
        """`span`: first byte, the one after the last, and the file's size. `arrived` is told bytes and seconds."""
        start, end, size = span
        self.status, self.headers = 206, {"content-range": f"bytes {start}-{end - 1}/{size}"}
        self._stream, self._left = stream, end - start
        self._arrived, self._failed = arrived, failed

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in few large pieces. Raises Broke when they do not come; Xet is then not asked for them again."""
        began, count = time.monotonic(), self._left
        try:
            for chunk in self._stream:
                self._left -= len(chunk)
                yield chunk
        except _FAILED as error:
            self._failed(error)
            raise Broke(type(error).__name__) from error
        if self._left:
            self._failed("it ends early")
            raise Broke("Xet ends early")
        self._arrived(count, time.monotonic() - began)

    def abort(self) -> None:
        """Who waits for bytes wakes when the next ones are there, or when the wire is closed: a stream that is being
        read cannot be ended from outside.
        """

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        with suppress(*_FAILED):
            self._stream.cancel()


def _session(patience: Patience) -> Any:
    """hf_xet's own threads and connections; what HF_XET_… variables set is left as it is."""
    try:
        from hf_xet import XetConfig, XetSession
    except ImportError as error:
        raise EnvironmentMissing(
            "The package hf_xet, which brings files through Xet, is not installed: "
            "run `make env-main`, or leave out --xet and model.xet."
        ) from error
    settings = {
        "client.connect_timeout": f"{patience.connect_s * 1000:.0f}ms",
        "client.read_timeout": f"{patience.read_s * 1000:.0f}ms",
        "client.retry_max_attempts": 1,
        "client.retry_base_delay": f"{patience.backoff_s * 1000:.0f}ms",
        "telemetry.enabled": False,
    }
    ours = {name: to for name, to in settings.items() if f"HF_XET_{name.replace('.', '_').upper()}" not in os.environ}
    return XetSession(XetConfig().with_config(ours))
