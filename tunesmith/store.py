"""Where artifacts live. A room is done when its manifest.json exists; that file is renamed into place last."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tunesmith.artifacts import Anything, Artifact, FileEntry
from tunesmith.errors import CorruptArtifact, StoreNotWritable
from tunesmith.specs.spec import Spec

MANIFEST = "manifest.json"
OUT = "out"
"""The folder of a room that holds the finished files."""


class Manifest(Spec):
    """Everything needed to explain an artifact a year later."""

    stage: str
    artifact: Anything
    files: tuple[FileEntry, ...]
    """What `out/` holds; paths relative to it."""
    parents: tuple[str, ...]
    """Fingerprints of the artifacts it was made from."""
    environment: str
    lock_sha256: str | None
    """Hash of the environment's lock file."""
    hardware: dict[str, Any]
    wall_seconds: float
    peak_bytes_predicted: int | None
    peak_bytes_seen: int
    """Largest resident set of the stage's process (on a GPU: its peak allocation too, under metrics)."""
    metrics: dict[str, float]
    finished_at: str
    """UTC, ISO 8601."""


class Store:
    """A folder of rooms; moving it changes no fingerprint."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()

    def open(self) -> "Store":
        """Makes the folder; raises StoreNotWritable with the reason."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{os.getpid()}-{threading.get_ident()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreNotWritable(
                f"The store {self.root} cannot be written ({error.strerror}): "
                "choose another --store or fix its permissions."
            ) from error
        return self

    def room(self, name: str) -> Path:
        return self.root / name

    def out(self, artifact: Artifact) -> Path:
        """The folder of the artifact's files."""
        return self.root / room_of(artifact, self) / OUT

    def manifest(self, room_name: str) -> Manifest | None:
        """The manifest of a room that is done and whose files are all there with their sizes, else None."""
        path = self.room(room_name) / MANIFEST
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:
            return None
        out = path.parent / OUT
        whole = all(_has(out / entry.path, entry.size) for entry in manifest.files)
        return manifest if whole else None

    def manifests(self) -> Iterator[tuple[str, Manifest]]:
        """Every finished room, newest first."""
        rooms = sorted(self.root.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in rooms:
            if manifest := self.manifest(path.parent.name):
                yield path.parent.name, manifest

    def finish(self, room_name: str, manifest: Manifest) -> None:
        """Declares the room done."""
        write_atomically(self.room(room_name) / MANIFEST, manifest.model_dump_json(indent=1).encode())

    def verify(self, artifact: Artifact) -> None:
        """Checks every file of an input against its manifest; raises CorruptArtifact naming the first bad one."""
        room_name = room_of(artifact, self)
        path = self.room(room_name) / MANIFEST
        manifest = Manifest.model_validate_json(path.read_bytes())
        with ThreadPoolExecutor(4) as pool:
            reasons = pool.map(lambda entry: _fault(path.parent / OUT, entry), manifest.files)
        for reason in filter(None, reasons):
            raise CorruptArtifact(
                f"{reason} in {room_name}: delete that folder of the store and run the same command to make it again."
            )

    def clear(self, room_name: str) -> None:
        """Forgets a room, finished or not."""
        (self.room(room_name) / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.room(room_name), ignore_errors=True)


def room_of(artifact: Artifact, store: Store) -> str:
    """The room that holds `artifact`: the one whose name ends in its fingerprint."""
    matches = sorted(path.name for path in store.root.glob(f"*-{artifact.fingerprint}"))
    if not matches:
        raise CorruptArtifact(
            f"The store {store.root} has no room for {type(artifact).__name__} {artifact.fingerprint}: "
            "run the same command to make it again."
        )
    return matches[0]


def list_files(folder: Path) -> tuple[FileEntry, ...]:
    """Every file below `folder`, hashed."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(sha256, paths))
    return tuple(
        FileEntry(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest)
        for path, digest in zip(paths, digests, strict=True)
    )


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside `path`, flushes to disk, renames over it: a reader sees the old file or the new one, whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read_artifact(data: bytes | str) -> Artifact:
    """Any artifact from its JSON."""
    artifact: Artifact = TypeAdapter(Anything).validate_json(data)
    return artifact


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1, default=str).encode())


def _has(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _fault(out: Path, entry: FileEntry) -> str | None:
    path = out / entry.path
    if not path.is_file():
        return f"{entry.path} is missing"
    if path.stat().st_size != entry.size or sha256(path) != entry.sha256:
        return f"{entry.path} has been altered"
    return None
