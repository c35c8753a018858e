"""A file of a few MiB at most: one request, held in memory, and written when it is known to be right."""

import os
from pathlib import Path

from tunesmith.hub.transfer.copying import opened
from tunesmith.hub.transfer.faults import Broke, Changed, Dropped
from tunesmith.hub.transfer.ranges import Claim
from tunesmith.hub.transfer.source import Remote
from tunesmith.hub.transfer.task import Means, Task, Want

SMALL_BYTES = 2 << 20
"""The largest file that is brought whole; of a larger one, what has arrived survives a kill."""


class Small(Task):
    def __init__(self, want: Want, means: Means) -> None:
        super().__init__(want, means)
        self._claim: Claim | None = None

    @property
    def done(self) -> int:
        return self.want.size if self.finished else 0

    @property
    def claims(self) -> list[Claim]:
        return [self._claim] if self._claim else []

    def claim(self, connections: int) -> Claim | None:
        if self._claim:
            return None
        self._claim = Claim(0, self.want.size, alone=True)
        self._claim.epoch = self.epoch
        return self._claim

    def release(self, claim: Claim) -> None:
        self._claim = None

    def close(self) -> None:
        """Nothing of it is open between requests."""

    def discard(self) -> None:
        """Nothing of it is on the disk before it is whole."""

    def restart(self) -> None:
        """Nothing is kept."""

    def carry(self, claim: Claim) -> None:
        there = self.where()
        content = self._read(there, claim) if isinstance(there, Path) else self._receive(there, claim)
        name = self.digest.of(content)
        if self.digest.wanted not in (None, name):
            return self.wrong(self.want.entry.path)
        self.verified = self.digest.wanted is not None
        self.means.shelf.keep(name, content)
        for path in self.want.paths:
            self.means.shelf.link(path, name)
        self.finished = True
        return None

    def _read(self, file: Path, claim: Claim) -> bytes:
        with opened(file, self.want.size) as source:
            content = os.pread(source, self.want.size, 0)
        claim.received = claim.at = len(content)
        self.means.used.add(self.means.supply.sources[self.turn].name)
        return content

    def _receive(self, remote: Remote, claim: Claim) -> bytes:
        content = bytearray()
        with self.means.wire.open(self.ask(remote)) as answer:
            self.learn(claim, answer)
            for chunk in answer.chunks():
                content += chunk
                claim.at = claim.received = len(content)
                if claim.dropped:
                    raise Dropped("no longer wanted")
                if len(content) > self.want.size:
                    raise Changed(f"sends more than the {self.want.size:,} bytes that are listed")
        if len(content) < self.want.size:
            raise Broke("the answer ends early")
        return bytes(content)
