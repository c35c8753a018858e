"""Downloads a pinned model into the Hugging Face cache, checks every byte a digest is listed for, and links it."""

from collections.abc import Iterable
from pathlib import Path

from tunesmith import worker
from tunesmith.artifacts import FileEntry, ModelSnapshot, ModelSource
from tunesmith.errors import CorruptArtifact
from tunesmith.hub.client import repo_cache
from tunesmith.hub.transfer.damage import find_wrong, throw_away_wrong
from tunesmith.hub.transfer.engine import bring
from tunesmith.hub.transfer.report import Progress, Report
from tunesmith.hub.transfer.source import Listed
from tunesmith.hub.transfer.sources.words import reopened
from tunesmith.hub.transfer.supply import Asked, Pinned, Supply
from tunesmith.jobs import DownloadJob
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
    throw_away_wrong(folder, source.files, lambda text: room.emit("note", text=text))
    missing = [entry for entry in source.files if not (folder / entry.path).exists()]
    if not missing:
        return 0
    events = _Events(source, missing, room)
    return bring(_supply(source, events), missing, report=events, xet=source.xet).bytes_received


def _supply(source: ModelSource, report: Report) -> Supply:
    """What was pinned, from whoever has it: nobody is asked for it again, and who listed it need not be there."""
    named = reopened(source.sources or (source.endpoint or "hf",), report.note)
    listers = [number for number, one in enumerate(named) if one.word == source.endpoint]
    pinned = Pinned(Listed(source.commit, source.files), listers[0] if listers else None)
    return Supply([one.source for one in named], Asked(source.repo, source.revision, "model"), pinned=pinned)


class _Events:
    """Tells the room what the download says."""

    def __init__(self, source: ModelSource, missing: Iterable[FileEntry], room: Room) -> None:
        self._room, self._total = room, source.total_bytes
        self._there = source.total_bytes - sum(entry.size for entry in missing)

    def progress(self, progress: Progress) -> None:
        done, rate, connections = self._there + progress.done, progress.rate, progress.connections
        self._room.emit("progress", done=done, total=self._total, unit="B", rate=round(rate), connections=connections)

    def note(self, text: str) -> None:
        self._room.emit("note", text=text)


def _accept_folder(source: ModelSource, folder: Path) -> None:
    for entry in find_wrong(folder, source.files):
        raise CorruptArtifact(
            f"{entry.path} in {folder} has changed since the run began: run the same command again to start from it."
        )


def _link(target: Path, link: Path) -> None:
    # To the blob itself: a room keeps its file when the cache's snapshot folder is pruned and made again.
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target.resolve())


if __name__ == "__main__":
    worker.main(download)
