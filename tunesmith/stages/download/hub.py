"""Downloads a pinned model into the Hugging Face cache, checks every byte a digest is listed for, and links it."""

import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from huggingface_hub import constants

from tunesmith import worker
from tunesmith.artifacts import FileEntry, ModelSnapshot, ModelSource
from tunesmith.errors import CorruptArtifact, DiskFull
from tunesmith.hub.client import Hub, repo_cache
from tunesmith.jobs import DownloadJob
from tunesmith.store import sha256
from tunesmith.worker import Made, Room

_ATTEMPTS = 2
_FILES_AT_ONCE = 4
_REPORT_SECONDS = 1.0
_GIB = 1 << 30


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
    """Brings what the cache lacks; a file that arrives wrong is thrown away and fetched once more. Returns bytes."""
    received = 0
    for _ in range(_ATTEMPTS):
        missing = [entry for entry in source.files if not (folder / entry.path).exists()]
        if missing:
            check_free_disk(missing)
            with _progress(source, folder, room):
                _bring(source, missing)
        received += sum(entry.size for entry in missing)
        wrong = find_wrong(folder, source.files)
        if not wrong:
            return received
        for entry in wrong:
            _discard(folder / entry.path)
            room.emit("note", text=f"{entry.path} does not match its listed size or sha256: thrown away.")
    raise CorruptArtifact(
        f"{wrong[0].path} of {source.repo} stays different from what {source.endpoint} lists, fetched anew: "
        "tell the hub's owner, or set another model.hub."
    )


def _bring(source: ModelSource, missing: Iterable[FileEntry]) -> None:
    # Not snapshot_download: with the hub away it returns an incomplete folder as if all were well.
    hub = Hub(source.endpoint)
    # A hub that is away says so here at once; every file's own tries take half a minute.
    hub.list(source.repo, source.commit)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        fetching = [pool.submit(hub.fetch, source.repo, source.commit, entry.path) for entry in missing]
        try:
            for done in as_completed(fetching):
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def check_free_disk(missing: Iterable[FileEntry]) -> None:
    """Raises DiskFull when the cache's disk cannot hold the missing files."""
    cache = Path(constants.HF_HUB_CACHE)
    needed = sum(entry.size for entry in missing)
    nearest = next(parent for parent in (cache, *cache.parents) if parent.exists())
    free = shutil.disk_usage(nearest).free
    if needed > free:
        raise DiskFull(
            f"The model needs {needed / _GIB:,.1f} GiB more in {cache} and {free / _GIB:,.1f} GiB are free: "
            "free some space, or set HF_HOME to a folder on a larger disk."
        )


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


@contextmanager
def _progress(source: ModelSource, folder: Path, room: Room) -> Iterator[None]:
    """Reports bytes on disk about once a second while the block runs, and once at its end."""
    blobs = repo_cache(source.repo) / "blobs"
    # Leftovers of a killed download are never continued, so they do not count.
    leftovers = set(blobs.glob("*.incomplete"))
    stop = Event()

    def report() -> None:
        done = sum(entry.size for entry in source.files if (folder / entry.path).exists())
        done += sum(_size(path) for path in blobs.glob("*.incomplete") if path not in leftovers)
        room.emit("progress", done=min(done, source.total_bytes), total=source.total_bytes, unit="B")

    def watch() -> None:
        while not stop.wait(_REPORT_SECONDS):
            report()

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
        report()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    worker.main(download)
