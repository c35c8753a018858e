"""Files that were downloaded earlier, held to their digests again, without asking anybody."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.errors import ModelError, RepoNotFound
from tunesmith.hub.names import fault_of_path
from tunesmith.hub.transfer.place import Shelf
from tunesmith.hub.transfer.source import Kind
from tunesmith.hub.transfer.verify import Digest

_BLOCK = 1 << 20


class Rechecked(NamedTuple):
    """What was found in the cache."""

    path: Path
    commit: str
    files: int
    bytes: int
    """Of all files that are there."""
    wrong: tuple[str, ...]
    """Paths whose content is missing, or is not what their blob is named after."""
    unnamed: tuple[str, ...]
    """Paths that are no links to a blob, so that the cache does not say what they should be."""

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {**self._asdict(), "path": str(self.path), "wrong": list(self.wrong), "unnamed": list(self.unnamed)}


def recheck(cache: Path, repo: str, revision: str = "main", kind: Kind = "model") -> Rechecked:
    """Hashes every file of the repo's snapshot. Raises ModelError or RepoNotFound when the cache has none."""
    shelf = Shelf(cache, repo, kind, "0" * 40, str(cache))
    snapshot = _snapshot(shelf.folder, repo, revision)
    paths = sorted(path for path in snapshot.rglob("*") if path.is_symlink() or path.is_file())
    if not paths:
        raise ModelError(f"{snapshot} holds no files: download {repo} first.")
    with ThreadPoolExecutor(4) as pool:
        verdicts = dict(zip(paths, pool.map(_is_right, paths), strict=True))
    return Rechecked(
        path=snapshot,
        commit=snapshot.name,
        files=len(paths),
        bytes=sum(path.stat().st_size for path in paths if path.exists()),
        wrong=_names(verdicts, False, snapshot),
        unnamed=_names(verdicts, None, snapshot),
    )


def _snapshot(folder: Path, repo: str, revision: str) -> Path:
    if fault_of_path(revision):
        raise RepoNotFound(f"{revision!a} is no revision: name a branch, a tag or a commit, such as main.")
    ref = folder / "refs" / revision
    commit = ref.read_text().strip() if ref.is_file() else revision
    snapshot = folder / "snapshots" / commit
    if fault_of_path(commit) or not snapshot.is_dir():
        raise ModelError(f"The cache {folder.parent} does not hold {repo} at {revision}: download it first.")
    return snapshot


def _is_right(path: Path) -> bool | None:
    """None when nothing says what the content should be."""
    if not path.exists():
        return False
    name = path.resolve().name
    if not path.is_symlink() or len(name) not in (40, 64):
        return None
    return hashed(path, Digest(name if len(name) == 64 else None)) == name


def hashed(path: Path, digest: Digest) -> str:
    """A file's name in the kind of digest that is asked for: 64 or 40 hex digits."""
    hasher = digest.start(path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def _names(verdicts: dict[Path, bool | None], which: bool | None, snapshot: Path) -> tuple[str, ...]:
    return tuple(path.relative_to(snapshot).as_posix() for path, verdict in verdicts.items() if verdict is which)
