"""Which bytes of one file are being asked for, and which to ask for next."""

import time
from collections.abc import Sequence
from typing import Protocol

from tunesmith.hub.transfer.spans import Span, Spans

_LEAST_BYTES = 1 << 20
_LEAST_SECONDS = 2.0
"""A range is split when it has at least so much to go: what its server has sent already is lost with the far half."""
_SEGMENT_BYTES = (4 << 20, 64 << 20)


class Abortable(Protocol):
    def abort(self) -> None: ...


class Claim:
    """A range that one connection brings; another may take its far half away."""

    def __init__(self, start: int, end: int, alone: bool = False) -> None:
        """`alone`: nobody may take a part of it."""
        self.start, self.at, self.end, self.alone = start, start, end, alone
        self.began = time.monotonic()
        self.epoch = 0
        """Of the file, when it was claimed: what happens later says nothing about a newer one."""
        self.generation = 0
        """Of the partial file."""
        self.received = 0
        self.dropped = False
        self.answer: Abortable | None = None
        self.mark = (self.began, start)
        """When its speed was last looked at, and where it was."""

    @property
    def left(self) -> int:
        """Bytes to go."""
        return self.end - self.at

    def is_long(self, now: float) -> bool:
        """Whether it will take a while yet, as far as it can be told after a second."""
        age = now - self.began
        rate = (self.at - self.start) / max(age, 1e-6)
        return not self.alone and self.left > _LEAST_BYTES and age > 1.0 and self.left > rate * _LEAST_SECONDS

    def drop(self) -> None:
        """Ends its connection; what it has not brought will be claimed anew."""
        self.dropped = True
        if answer := self.answer:
            answer.abort()


class Ranges:
    """The claims on one file. Not thread-safe: the pool's lock is held around every call."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.claims: list[Claim] = []

    def claim(self, holes: Sequence[Span], connections: int, whole: bool = False) -> Claim | None:
        """A range that is missing and that nobody brings, else half of the largest that somebody does, else None.

        Segments are handed out from the front, so that the part without holes grows and can be hashed meanwhile.
        `whole`: the server sends only whole files, so one connection brings everything.
        """
        if whole:
            return self._add(Claim(0, self.size, alone=True)) if holes and not self.claims else None
        free = Spans(holes).without(Spans((one.at, one.end) for one in self.claims))
        for start, end in free:
            return self._add(Claim(start, min(end, start + self._segment(holes, connections))))
        return self._split()

    def release(self, claim: Claim) -> None:
        if claim in self.claims:
            self.claims.remove(claim)

    def _add(self, claim: Claim) -> Claim:
        self.claims.append(claim)
        return claim

    def _segment(self, holes: Sequence[Span], connections: int) -> int:
        left = sum(end - start for start, end in holes)
        least, most = _SEGMENT_BYTES
        return max(least, min(most, left // (6 * connections)))

    def _split(self) -> Claim | None:
        now = time.monotonic()
        long_ones = [claim for claim in self.claims if claim.is_long(now)]
        if not long_ones:
            return None
        longest = max(long_ones, key=lambda claim: claim.left)
        middle = longest.at + longest.left // 2
        taken, longest.end = Claim(middle, longest.end), middle
        return self._add(taken)
