"""Files that are there already and are not what was listed: found by hashing, and thrown away."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tunesmith.artifacts import FileEntry
from tunesmith.hub.transfer.recheck import hashed
from tunesmith.hub.transfer.verify import Digest


def find_wrong(folder: Path, files: Iterable[FileEntry]) -> list[FileEntry]:
    """The files that are missing, or differ from their listed size or digest."""
    entries = list(files)
    with ThreadPoolExecutor(4) as pool:
        good = pool.map(lambda entry: _is_good(folder / entry.path, entry), entries)
        return [entry for entry, fine in zip(entries, good, strict=True) if not fine]


def throw_away_wrong(folder: Path, files: Iterable[FileEntry], note: Callable[[str], None]) -> None:
    """Those that are in a snapshot of the cache and differ go, with their bytes; `note` is told of each.

    What a link leads to outside the repo's folder in the cache is somebody's own, and stays.
    """
    blobs = (folder.resolve().parents[1] / "blobs").resolve()
    there = [entry for entry in files if (folder / entry.path).exists()]
    for entry in find_wrong(folder, there):
        path = folder / entry.path
        if (bytes_of := path.resolve()).parent == blobs:
            bytes_of.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        note(f"{entry.path} does not match its listed size or sha256: thrown away.")


def _is_good(path: Path, entry: FileEntry) -> bool:
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    digest = Digest(entry.sha256, entry.git_id)
    return digest.wanted is None or hashed(path, digest) == digest.wanted
