"""The fault-injecting hub in a process of its own, so that its work is not counted as the client's."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

from tests.hub.faults import FaultyHub
from tests.hub.repo import Repo

REPO = "acme/tiny"


class Count(NamedTuple):
    """What the hub did since it was last asked."""

    sent: int
    """Bytes of files."""
    requests: int
    connections: int


class Apart:
    """The hub, as the other process sees it."""

    def __init__(self, address: str, line: Connection) -> None:
        self.address = address
        self._line = line

    def count(self) -> Count:
        """What happened since the last call, once nothing is under way."""
        self._line.send("count")
        count: Count = self._line.recv()
        return count

    def set_rate(self, rate: float | None) -> None:
        """Bytes a second of each connection, from the next answer on."""
        self._line.send(rate)
        self._line.recv()


@contextmanager
def hub_apart(make: Callable[[], Repo], rate: float | None = None) -> Iterator[Apart]:
    """Serves the repo that `make` returns as acme/tiny until the block ends; `make` is a function of a module."""
    context = multiprocessing.get_context("spawn")
    line, far = context.Pipe()
    process = context.Process(target=_serve, args=(make, rate, far), daemon=True)
    process.start()
    try:
        yield Apart(line.recv(), line)
    finally:
        line.close()
        process.terminate()
        process.join()


def settle(hub: FaultyHub) -> None:
    """Returns once the count stands still: a client may have the last bytes before the hub has counted them."""
    before = -1
    while before != (before := hub.sent()):
        time.sleep(0.1)


def _serve(make: Callable[[], Repo], rate: float | None, line: Connection) -> None:
    with FaultyHub({REPO: make()}, rate=rate) as hub:
        line.send(hub.address)
        counted, opened = 0, 0
        while True:
            try:
                order = line.recv()
            except EOFError:
                return
            if order != "count":
                hub.rate = order
                line.send(None)
                continue
            settle(hub)
            seen, opened_now = hub.requests()[counted:], hub.connections()
            sent = sum(one.sent for one in seen if one.asked.where in ("resolve", "cdn"))
            line.send(Count(sent, len(seen), opened_now - opened))
            counted, opened = counted + len(seen), opened_now
