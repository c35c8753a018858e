"""The first bytes of a file, on this machine or in a repo, as many as turn out to be wanted."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.artifacts import FileEntry
from tunesmith.errors import TunesmithError
from tunesmith.hub.client import repo_cache
from tunesmith.hub.transfer.faults import Broke, Changed, Fault, Gone, NoRanges
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.source import Remote
from tunesmith.hub.transfer.supply import Supply
from tunesmith.hub.transfer.wire import Ask, Wire

Reader = Callable[[int], bytes]
"""So many bytes from the beginning; asked again with more, it fetches only the rest."""


@contextmanager
def open_file(path: Path) -> Iterator[Reader]:
    with path.open("rb") as file:

        def read(size: int) -> bytes:
            file.seek(0)
            return file.read(size)

        yield read


@contextmanager
def open_hub(supply: Supply, entry: FileEntry, patience: Patience | None = None) -> Iterator[Reader]:
    """Out of the cache where it is there, else from the first source that has it."""
    place = repo_cache(supply.asked.repo, supply.asked.kind) / "snapshots" / supply.listed.commit / entry.path
    if place.is_file() and place.stat().st_size == entry.size:
        with open_file(place) as read:
            yield read
        return
    start = _Start(supply, entry, patience or Patience())
    try:
        yield start.read
    finally:
        start.close()


class _Start:
    """What has been fetched so far of one file."""

    def __init__(self, supply: Supply, entry: FileEntry, patience: Patience) -> None:
        self._supply, self._entry, self._patience = supply, entry, patience
        self._wire = Wire(1, patience)
        self._content = bytearray()

    def close(self) -> None:
        self._wire.close()

    def read(self, size: int) -> bytes:
        """Raises what the preferred source's last fault came to, when every source has failed."""
        errors: list[TunesmithError] = []
        for number in self._supply.usable():
            try:
                self._from(number, size)
                return bytes(self._content[:size])
            except Fault as fault:
                errors.append(self._supply.explain(number, fault))
        raise errors[0]

    def _from(self, number: int, size: int) -> None:
        """Asks one source until it has brought the bytes, patiently while some arrive."""
        failures = 0
        while len(self._content) < size:
            before = len(self._content)
            try:
                there = self._supply.locate(number, self._entry, self._entry.sha256 is not None)
                self._copy(there, size) if isinstance(there, Path) else self._receive(there, size)
            except (Broke, Gone) as fault:
                failures = 1 if len(self._content) > before else failures + 1
                if failures > self._patience.tries:
                    raise
                wait = fault.wait_s if isinstance(fault, Broke) else 0.0
                time.sleep(max(wait, self._patience.backoff(failures)))

    def _copy(self, file: Path, size: int) -> None:
        try:
            with open_file(file) as read:
                self._content[:] = read(size)
        except OSError as error:
            raise Broke(f"{file} cannot be read") from error
        if len(self._content) < size:
            raise Changed(f"has {len(self._content):,} bytes of it where {self._entry.size:,} are listed")

    def _receive(self, remote: Remote, size: int) -> None:
        try:
            self._take(Ask(remote, self._entry.size, len(self._content), size), size)
        except NoRanges:
            # It would send everything: the connection is closed where the head ends.
            self._content.clear()
            self._take(Ask(remote, self._entry.size), size)

    def _take(self, ask: Ask, size: int) -> None:
        with self._wire.open(ask) as answer:
            for chunk in answer.chunks():
                self._content += chunk[: size - len(self._content)]
                if len(self._content) == size:
                    return
        raise Broke("the answer ends early")
