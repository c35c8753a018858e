"""How many connections help, and which of them is far too slow."""

from collections import deque
from collections.abc import Iterable
from statistics import median

from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.ranges import Claim

_FEW = 2
"""Connections that are enough where this machine, not the line, is what takes the time."""
_FIRST = 8
"""Connections to begin with: finding out costs more than a few that do not help."""
_STEP_SECONDS = 0.8
_GAIN = 1.10
_HOLD_SECONDS = 8.0


class Gauge:
    """The number of connections in use: a handful at first, more while the total rate rises with them, half of them
    whenever a server says that it is asked too much, and two where this machine is what takes the time.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = min(_FIRST, most)
        self._looked: tuple[float, float] | None = None
        self._best, self._before = 0.0, self.limit
        self._hold_until = self._busy_until = 0.0

    def look(self, now: float, work: float, used: int) -> None:
        """Told the time in seconds, what has been done so far in bytes, and how many connections are at work."""
        if self._looked is None:
            self._looked = (now, work)
        seconds = now - self._looked[0]
        if seconds < _STEP_SECONDS:
            return
        rate, self._looked = (work - self._looked[1]) / seconds, (now, work)
        # While fewer are at work than may be, the rate says nothing about the limit.
        if used >= self.limit and now >= self._hold_until:
            self._step(now, rate)

    def behind(self, now: float) -> None:
        """What arrives waits to be hashed: more connections would only take the processor away from that."""
        self._cut(now, max(self.limit // 2, min(_FEW, self.limit)))

    def busy(self, now: float) -> None:
        """A server said that it is asked too much."""
        # Those that were asked before the first such answer say nothing new.
        if now >= self._busy_until:
            self._cut(now, max(1, self.limit // 2))
            self._busy_until = now + _STEP_SECONDS

    def _cut(self, now: float, limit: int) -> None:
        self.limit = self._before = limit
        self._best, self._hold_until = 0.0, now + _HOLD_SECONDS

    def _step(self, now: float, rate: float) -> None:
        if rate > self._best * _GAIN:
            self._best, self._before = rate, self.limit
            self.limit = min(self.most, self.limit * 2)
            return
        # The last step brought nothing: back by it, and another try later.
        self.limit, self._best = self._before, rate
        self._hold_until = now + _HOLD_SECONDS


class Speed:
    """Bytes a second over the last few seconds."""

    def __init__(self, seconds: float = 5.0) -> None:
        self._seconds = seconds
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> float:
        """Told the time and the bytes so far; returns the rate."""
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > self._seconds:
            self._seen.popleft()
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return max(after - before, 0) / (last - first) if last > first else 0.0


def too_slow(claims: Iterable[Claim], now: float, patience: Patience) -> list[Claim]:
    """Those that brought far less than their siblings, or next to nothing, since they were last looked at.

    Before its first byte a connection is silent, not slow: how long that may last is said elsewhere.
    """
    claims = list(claims)
    for claim in claims:
        if claim.at == claim.start:
            claim.mark = (now, claim.at)
    ripe = [claim for claim in claims if now - claim.mark[0] >= patience.slow_s]
    rates = {claim: (claim.at - claim.mark[1]) / (now - claim.mark[0]) for claim in ripe}
    for claim in ripe:
        claim.mark = (now, claim.at)
    usual = median(rates.values()) if len(rates) > 2 else 0.0
    least = max(patience.floor_bytes_s, patience.slow_share * usual)
    return [claim for claim, rate in rates.items() if rate < least]
