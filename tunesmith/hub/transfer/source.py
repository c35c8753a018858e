"""Where a repo's files come from: a hub, a mirror of one, or a folder; each says what there is, and where."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from tunesmith.artifacts import FileEntry

Kind = Literal["model", "dataset"]


class Listed(NamedTuple):
    """A repo at one commit, from metadata alone."""

    commit: str
    """40 hex digits."""
    files: tuple[FileEntry, ...]
    """Checked names and sizes in bytes; sha256 and git's id where the source says them."""


class Remote(NamedTuple):
    """Bytes behind an address, for as long as it is valid."""

    url: str
    headers: Mapping[str, str]
    """For that address's host alone."""
    xet: bool = False
    """Whether to ask the hub if it has them in Xet too."""


class Source(Protocol):
    """One place a repo can come from. Every method raises the errors of `tunesmith.errors`, each saying what to do."""

    @property
    def name(self) -> str:
        """For people: `https://huggingface.co`, `modelscope`, a folder's path."""

    def listing(self, repo: str, revision: str, kind: Kind = "model") -> Listed:
        """The repo's files at the commit that `revision` stands for."""

    def locate(self, repo: str, commit: str, entry: FileEntry, kind: Kind = "model") -> Remote | Path:
        """Where the file's bytes are: an address that is asked for ranges, or a file on this machine."""
