"""What a download says while it runs, and what it says in the end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

_MB = 1e6


class Progress(NamedTuple):
    """How far it is."""

    done: int
    """Bytes that are there, of `total`."""
    total: int
    rate: float
    """Bytes a second that arrive, over the last seconds."""
    connections: int
    files: tuple[tuple[str, int, int], ...] = ()
    """Path, bytes there and size of each file that is under way."""


def describe(progress: Progress) -> str:
    """Bytes, share, rate and time left, in a line."""
    done, total = progress.done, progress.total
    text = f"{done / _MB:,.1f} of {total / _MB:,.1f} MB ({done / total if total else 1.0:.0%}), {pace(progress)}"
    return f"{text} over {progress.connections} connections" if progress.connections and done < total else text


def pace(progress: Progress) -> str:
    """Rate, and time left where it can be told."""
    text = f"{progress.rate / _MB:,.1f} MB/s"
    left = progress.total - progress.done
    return f"{text}, {duration(left / progress.rate)} left" if left and progress.rate else text


def duration(seconds: float) -> str:
    """In the largest unit that leaves two digits."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


class Report(Protocol):
    """Who listens; called from the thread that called `fetch`, except that notes may come from any."""

    def progress(self, progress: Progress) -> None: ...

    def note(self, text: str) -> None: ...


class Silent:
    """Nobody listens."""

    def progress(self, progress: Progress) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Result:
    """A finished download."""

    path: Path
    """The snapshot's folder in the cache."""
    commit: str
    bytes_total: int
    """Of the files asked for."""
    bytes_received: int
    """Over the network or from another folder, what had to be sent again included."""
    bytes_reused: int
    """That were there already: in the cache, in a partial file, or brought by another process meanwhile."""
    seconds: float
    sources: tuple[str, ...]
    """Names of those that bytes came from."""
    verified: int
    """Files that this download held to a digest; those that were in the cache before are not hashed again."""

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {**vars(self), "path": str(self.path), "sources": list(self.sources), "seconds": round(self.seconds, 3)}
