"""Downloads a pinned model into the Hugging Face cache, checks every byte a digest is listed for, and links it."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tunesmith import worker
from tunesmith.artifacts import FileEntry, ModelSnapshot, ModelSource
from tunesmith.errors import CorruptArtifact
from tunesmith.hub.client import repo_cache
from tunesmith.hub.transfer.engine import bring
from tunesmith.hub.transfer.report import Progress
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.hub.transfer.supply import Asked, Supply
from tunesmith.jobs import DownloadJob
from tunesmith.store import sha256
from tunesmith.worker import Made, Room


def download(job: DownloadJob, room: Room) -> Made:
    """The model's files, linked into `out/` from the cache (or from its folder), each as large and as hashed as listed.

    Raises DiskFull before the first byte, CorruptArtifact naming the file that stays wrong, and what `Hub` raises.
    """
    source = job.source
    folder = _folder(source)
    if source.path is None:
        received = _fetch(source, folder, room)
    else:
        received = 0
        _accept_folder(source, folder)
    for entry in source.files:
        _link(folder / entry.path, room.out / entry.path)
    snapshot = ModelSnapshot(fingerprint=job.fingerprint, repo=source.repo, commit=source.commit)
    return Made(snapshot, {"bytes_total": source.total_bytes, "bytes_received": received})


def _folder(source: ModelSource) -> Path:
    if source.path is not None:
        return Path(source.path)
    return repo_cache(source.repo) / "snapshots" / source.commit


def _fetch(source: ModelSource, folder: Path, room: Room) -> int:
    """Brings what the cache lacks or holds damaged; what is there is hashed first. Returns the bytes that arrived."""
    there = [entry for entry in source.files if (folder / entry.path).exists()]
    for entry in find_wrong(folder, there):
        _discard(folder / entry.path)
        room.emit("note", text=f"{entry.path} does not match its listed size or sha256: thrown away.")
    missing = [entry for entry in source.files if not (folder / entry.path).exists()]
    if not missing:
        return 0
    supply = Supply([HuggingFace(source.endpoint)], Asked(source.repo, source.commit, "model"))
    return bring(supply, missing, report=_Events(source, missing, room), xet=source.xet).bytes_received


class _Events:
    """Tells the room what the download says."""

    def __init__(self, source: ModelSource, missing: Iterable[FileEntry], room: Room) -> None:
        self._room, self._total = room, source.total_bytes
        self._there = source.total_bytes - sum(entry.size for entry in missing)

    def progress(self, progress: Progress) -> None:
        self._room.emit("progress", done=self._there + progress.done, total=self._total, unit="B")

    def note(self, text: str) -> None:
        self._room.emit("note", text=text)


def find_wrong(folder: Path, files: Iterable[FileEntry]) -> list[FileEntry]:
    """The files that are missing, or differ from their listed size or sha256."""
    entries = list(files)
    with ThreadPoolExecutor(4) as pool:
        good = pool.map(lambda entry: _is_good(folder / entry.path, entry), entries)
        return [entry for entry, fine in zip(entries, good, strict=True) if not fine]


def _is_good(path: Path, entry: FileEntry) -> bool:
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    return entry.sha256 is None or sha256(path) == entry.sha256


def _accept_folder(source: ModelSource, folder: Path) -> None:
    for entry in find_wrong(folder, source.files):
        raise CorruptArtifact(
            f"{entry.path} in {folder} has changed since the run began: run the same command again to start from it."
        )


def _discard(path: Path) -> None:
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _link(target: Path, link: Path) -> None:
    # To the blob itself: a room keeps its file when the cache's snapshot folder is pruned and made again.
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())


if __name__ == "__main__":
    worker.main(download)
