"""The repos below a folder, as a hub lists them: commit, files, sizes, digests.

    DIR/<owner>/<name>/files            models
    DIR/datasets/<owner>/<name>/files   datasets

`.listing.json` in a repo's folder remembers digests of large files, and may name files that are not there:
`{"files": [{"path": …, "size": …, "sha256": …, "metadata_only": true}]}` lists a mirror's sizes without its bytes.
`.gated` holds the token a reader must send. Hidden files are never listed.
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tunesmith.store import sha256, write_json

LISTING, GATED = ".listing.json", ".gated"
KINDS = {"models": "", "datasets": "datasets"}
"""Kind of repo -> the folder below DIR that holds its owners."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_RESERVED = frozenset({"api", "cdn", "datasets", "models", "spaces"})
_LARGE_SUFFIXES = frozenset(
    {".safetensors", ".bin", ".gguf", ".pt", ".pth", ".ckpt", ".onnx", ".h5", ".model", ".parquet", ".msgpack"}
)
_LARGE_BYTES = 1 << 20
_Key = tuple[str, int, int]


class Entry(NamedTuple):
    """One listed file."""

    path: str
    size: int
    """Bytes."""
    sha256: str | None
    """Of the content, for a large file; None for one that git itself would hold."""
    blob_id: str
    """Git's object id, 40 hex digits: of the content, or of the LFS pointer that stands for it."""
    file: Path | None
    """Where the bytes are; None when only metadata is mirrored."""

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob_id


class Repository:
    """One repo's folder; digests are computed when first asked for and remembered by path, size and mtime."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self._root = root
        self._digests: dict[_Key, str] = {}
        self._mirrored: list[dict[str, str | int]] = []
        self._lock = threading.Lock()
        self._recall()

    @property
    def token(self) -> str | None:
        """What a reader must send, None for an open repo."""
        gate = self.folder / GATED
        return gate.read_text().strip() if gate.exists() else None

    def entries(self) -> dict[str, Entry]:
        """Every listed file by path, sorted; hashes what is new."""
        with self._lock:
            known = len(self._digests)
            found = {path: self._entry(path, file) for path, file in self._files()}
            for row in self._mirrored:
                found.setdefault(str(row["path"]), _mirrored(row))
            if len(self._digests) > known:
                self._remember()
        return dict(sorted(found.items()))

    def _files(self) -> Iterator[tuple[str, Path]]:
        for parent, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                file = Path(parent, name)
                # A link may point elsewhere in DIR, never out of it.
                if not name.startswith(".") and file.is_file() and file.resolve().is_relative_to(self._root):
                    yield file.relative_to(self.folder).as_posix(), file

    def _entry(self, path: str, file: Path) -> Entry:
        stat = file.stat()
        large = stat.st_size >= _LARGE_BYTES or file.suffix in _LARGE_SUFFIXES
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._digests:
            self._digests[key] = sha256(file) if large else git_blob_id(file.read_bytes())
        digest = self._digests[key]
        if not large:
            return Entry(path, stat.st_size, None, digest, file)
        return Entry(path, stat.st_size, digest, git_blob_id(lfs_pointer(digest, stat.st_size)), file)

    def _recall(self) -> None:
        try:
            rows = json.loads((self.folder / LISTING).read_text())["files"]
        except (OSError, ValueError, KeyError):
            return
        self._mirrored = [row for row in rows if row.get("metadata_only")]
        known = [row for row in rows if "mtime_ns" in row]
        self._digests = {(row["path"], row["size"], row["mtime_ns"]): row["sha256"] for row in known}

    def _remember(self) -> None:
        large = [key for key, digest in self._digests.items() if len(digest) == 64]
        rows = [
            {"path": p, "size": size, "mtime_ns": at, "sha256": self._digests[p, size, at]} for p, size, at in large
        ]
        try:
            write_json(self.folder / LISTING, {"files": [*self._mirrored, *rows]})
        except OSError:
            # A read-only folder: the digests stay in memory.
            return


class Shelf:
    """All repos below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self._open: dict[Path, Repository] = {}

    def repository(self, kind: str, owner: str, name: str) -> Repository | None:
        """The repo, or None when there is none by that name."""
        if kind not in KINDS or owner in _RESERVED or not (_NAME.fullmatch(owner) and _NAME.fullmatch(name)):
            return None
        folder = self.root / KINDS[kind] / owner / name
        if not folder.is_dir() or not folder.resolve().is_relative_to(self.root):
            return None
        if folder not in self._open:
            self._open[folder] = Repository(folder, self.root)
        return self._open[folder]

    def warm(self) -> None:
        """Hashes every repo once, so that no reader's first call waits for it."""
        for kind, prefix in KINDS.items():
            for folder in sorted((self.root / prefix).glob("*/*")):
                if repository := self.repository(kind, folder.parent.name, folder.name):
                    repository.entries()


def commit_of(entries: dict[str, Entry]) -> str:
    """40 hex digits over paths, sizes and digests: the same files are the same commit wherever they lie."""
    text = json.dumps([(entry.path, entry.size, entry.etag) for entry in entries.values()])
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def git_blob_id(content: bytes) -> str:
    """Git's object id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def lfs_pointer(digest: str, size: int) -> bytes:
    """The pointer file git-lfs (spec v1) keeps in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n".encode()


def _mirrored(row: dict[str, str | int]) -> Entry:
    path, size, digest = str(row["path"]), int(row["size"]), row.get("sha256")
    if digest is None:
        return Entry(path, size, None, git_blob_id(f"{path} {size}".encode()), None)
    return Entry(path, size, str(digest), git_blob_id(lfs_pointer(str(digest), size)), None)
