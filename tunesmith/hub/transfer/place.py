"""Where finished files go: an ordinary Hugging Face cache, which every other program of that world reads.

<cache>/models--<owner>--<name>/blobs/<sha256 or git id>         the bytes
                                blobs/<…>.part, .part.journal    what is still arriving, and .part.owner
                                snapshots/<commit>/<path>        a relative link to a blob
                                refs/<revision>                  the commit it stood for
"""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunesmith.artifacts import FileEntry
from tunesmith.errors import DiskFull, ModelError, RepoNotFound, StoreNotWritable
from tunesmith.hub.names import check_commit, check_path, fault_of_path
from tunesmith.hub.transfer.owner import is_free
from tunesmith.hub.transfer.source import Kind

_GIB = 1 << 30
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_ABANDONED_SECONDS = 14 * 86400.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


class Shelf:
    """One repo's folder in the cache, at one commit. Its methods may raise OSError; see `explained`."""

    def __init__(self, cache: Path, repo: str, kind: Kind, commit: str, source: str) -> None:
        """`source` is named when what it says cannot be used. Raises ModelError or RepoNotFound."""
        if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
            raise RepoNotFound(f"{repo!a} is no {kind} repo's name: write it as owner/name.")
        self.cache = cache
        self.folder = cache / "--".join([f"{kind}s", *repo.split("/")])
        self.blobs = self.folder / "blobs"
        self.snapshot = self.folder / "snapshots" / check_commit(commit, source)
        self._source = source

    def blob(self, name: str) -> Path:
        """The place of the bytes named `name`, 40 or 64 hex digits."""
        if not _BLOB.fullmatch(name):
            raise ModelError(f"{self._source} names a file's content {name!a}, not by its digest: do not use that hub.")
        return self.blobs / name

    def part(self, key: str) -> Path:
        """The place of what is still arriving."""
        return self.blob(key).with_name(f"{key}.part")

    def place(self, path: str) -> Path:
        return self.snapshot / check_path(path, self._source)

    def has(self, entry: FileEntry) -> bool:
        """Whether the snapshot holds the file with its size, and under its digest where both are known."""
        place = self.place(entry.path)
        try:
            if place.stat().st_size != entry.size:
                return False
            name = place.resolve().name if place.is_symlink() else ""
        except OSError:
            return False
        return not (entry.sha256 and len(name) == 64 and name != entry.sha256)

    def has_blob(self, entry: FileEntry) -> bool:
        try:
            return entry.sha256 is not None and self.blob(entry.sha256).stat().st_size == entry.size
        except OSError:
            return False

    def link(self, path: str, name: str) -> None:
        """Makes `path` of the snapshot stand for the blob; a copy where the disk has no links."""
        place, blob = self.place(path), self.blob(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(blob, place.parent)
        # Not in the snapshot, where a kill would leave one file more than the repo has.
        beside = self.folder / f"{secrets.token_hex(8)}.tmp"
        try:
            beside.symlink_to(target)
        except OSError as error:
            if error.errno in (*_FULL, errno.EROFS):
                raise
            shutil.copyfile(blob, beside)
        beside.replace(place)

    def keep(self, name: str, content: bytes) -> None:
        """A small file's bytes as a blob, whole or not at all."""
        blob = self.blob(name)
        beside = blob.with_name(f"{name}.{secrets.token_hex(4)}.tmp")
        try:
            beside.write_bytes(content)
            beside.replace(blob)
        except OSError:
            beside.unlink(missing_ok=True)
            raise

    def note_revision(self, revision: str) -> None:
        """Remembers which commit a branch stood for, for an offline run; a cache that is read-only serves without."""
        if revision == self.snapshot.name or fault_of_path(revision):
            return
        ref = self.folder / "refs" / revision
        beside = ref.with_name(f".{secrets.token_hex(8)}")
        with suppress(OSError):
            if not ref.exists() or ref.read_text() != self.snapshot.name:
                ref.parent.mkdir(parents=True, exist_ok=True)
                beside.write_text(self.snapshot.name)
                beside.replace(ref)

    def tidy(self) -> None:
        """Removes what finished and abandoned downloads left behind, and never fails for it."""
        try:
            for leftover in self._leftovers():
                leftover.unlink(missing_ok=True)
        except OSError:
            return

    def _leftovers(self) -> Iterator[Path]:
        long_ago = time.time() - _ABANDONED_SECONDS
        for file in (*self.folder.glob("*.tmp"), *self.blobs.glob("*.tmp")):
            if file.lstat().st_mtime < long_ago:
                yield file
        for part in {self.blobs / f"{file.name.partition('.')[0]}.part" for file in self.blobs.glob("*.part*")}:
            marks = [*self.blobs.glob(part.name), *self.blobs.glob(f"{part.name}.*")]
            # A kill between the file's name and its journal's end leaves the journal, and a dead owner's mark.
            finished = is_free(part) and (part.with_suffix("").exists() or not part.exists())
            if finished or max(mark.stat().st_mtime for mark in marks) < long_ago:
                yield from marks


def check_free_disk(missing: Iterable[FileEntry], cache: Path, there: int = 0) -> None:
    """Raises DiskFull when the cache's disk cannot hold the missing files; `there` bytes of them are on it already."""
    needed = sum(entry.size for entry in missing) - there
    nearest = next(parent for parent in (cache, *cache.absolute().parents) if parent.exists())
    free = shutil.disk_usage(nearest).free
    if needed > free:
        raise DiskFull(
            f"The model needs {needed / _GIB:,.1f} GiB more in {cache} and {free / _GIB:,.1f} GiB are free: "
            "free some space, or set HF_HOME to a folder on a larger disk."
        )


@contextmanager
def explained(cache: Path) -> Iterator[None]:
    """Turns what the disk refuses inside into one sentence."""
    try:
        yield
    except OSError as error:
        raise (explain(error, cache) or error) from error


def explain(error: OSError, cache: Path) -> DiskFull | StoreNotWritable | None:
    """The sentence for an error of the cache's disk; None when it is another kind of error."""
    if error.errno in _FULL:
        return DiskFull(
            f"The disk of {cache} is full: free some space, or set HF_HOME to a folder on a larger disk; "
            "what has arrived is kept, and the same command goes on from there."
        )
    if error.errno in _CLOSED:
        return StoreNotWritable(
            f"The cache {cache} cannot be written ({error.strerror}): "
            "set HF_HOME to a folder that can, or fix its permissions."
        )
    return None
