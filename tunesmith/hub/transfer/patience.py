"""How long to wait for what."""

import email.utils
import random
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """Seconds, tries and rates; the defaults suit a slow and shaky line."""

    connect_s: float = 10.0
    read_s: float = 20.0
    """A connection that brings nothing for so long has stalled; there is no limit on the whole."""
    tries: int = 6
    """Failures of one file from one source without a new byte between them."""
    backoff_s: float = 0.4
    """Before the first retry; doubled each time."""
    longest_backoff_s: float = 30.0
    longest_wait_s: float = 300.0
    """The most of a server's Retry-After that is honoured."""
    slow_s: float = 10.0
    """How long a connection may be slow before it is dropped."""
    slow_share: float = 0.15
    """Slow: below this share of its siblings' median."""
    floor_bytes_s: float = 2048.0
    """Slow, siblings or not."""
    owner_s: float = 10.0
    """How long another process's mark may stand still before it counts as dead."""
    beat_s: float = 2.0
    """Between two signs of life of this process."""

    def backoff(self, failures: int) -> float:
        """Seconds before the next try after so many failures in a row, jittered by half."""
        longest = min(self.backoff_s * 2.0 ** max(failures - 1, 0), self.longest_backoff_s)
        return longest * random.uniform(0.5, 1.0)

    def wait(self, retry_after: str | None) -> float:
        """Seconds that a Retry-After header asks for, as a number or as a date; 0 when it says neither."""
        return min(max(_seconds(retry_after), 0.0), self.longest_wait_s)


def _seconds(header: str | None) -> float:
    if not header:
        return 0.0
    try:
        return float(header)
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(header).timestamp() - time.time()
    except (TypeError, ValueError):
        return 0.0
