"""What a download says while it runs, and what it says in the end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Progress(NamedTuple):
    """How far it is."""

    done: int
    """Bytes that are there, of `total`."""
    total: int
    rate: float
    """Bytes a second that arrive, over the last seconds."""
    connections: int
    files: tuple[tuple[str, int, int], ...]
    """Path, bytes there and size of each file that is under way."""


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
