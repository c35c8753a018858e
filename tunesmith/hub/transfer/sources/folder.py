"""A plain folder as a source: a repo that somebody copied, or a mirror's disk."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tunesmith.artifacts import FileEntry
from tunesmith.errors import ModelError
from tunesmith.hub.transfer.source import Kind, Listed
from tunesmith.store import sha256


class Folder:
    """The repo's own folder, or one that holds `<owner>/<name>` (`datasets/<owner>/<name>`) folders."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelError when there is no such folder."""
        self.folder = folder.expanduser().resolve()
        if not self.folder.is_dir():
            raise ModelError(f"There is no folder {self.folder}: check --source.")

    @property
    def name(self) -> str:
        return str(self.folder)

    def listing(self, repo: str, revision: str, kind: Kind = "model") -> Listed:
        """Every file but hidden ones, hashed; the commit is a digest of them all, so `revision` chooses nothing."""
        below = self._below(repo, kind)
        paths = sorted(path for path in below.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(below)))
        if not paths:
            raise ModelError(f"{below} holds no files: name another source.")
        with ThreadPoolExecutor(4) as pool:
            digests = list(pool.map(sha256, paths))
        files = tuple(
            FileEntry(path=path.relative_to(below).as_posix(), size=path.stat().st_size, sha256=digest)
            for path, digest in zip(paths, digests, strict=True)
        )
        identity = json.dumps([entry.identity() for entry in files])
        return Listed(hashlib.sha256(identity.encode()).hexdigest()[:40], files)

    def locate(self, repo: str, commit: str, entry: FileEntry, kind: Kind = "model") -> Path:
        return self._below(repo, kind) / entry.path

    def holds(self, repo: str, kind: Kind = "model") -> bool:
        """Whether the repo has a folder of its own in it."""
        return self._below(repo, kind) != self.folder

    def _below(self, repo: str, kind: Kind) -> Path:
        below = self.folder / ("datasets" if kind == "dataset" else "") / repo
        return below if below.is_dir() else self.folder


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
