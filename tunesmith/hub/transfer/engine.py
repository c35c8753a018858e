"""Brings a repo's files into the Hugging Face cache: resumed to the byte, verified, from whichever source has them."""

import hashlib
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from tunesmith.artifacts import FileEntry
from tunesmith.errors import ModelError
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.place import Shelf, check_free_disk, explained
from tunesmith.hub.transfer.pool import Pool
from tunesmith.hub.transfer.recheck import hashed
from tunesmith.hub.transfer.report import Progress, Report, Result, Silent
from tunesmith.hub.transfer.source import Kind, Source
from tunesmith.hub.transfer.supply import Asked, Supply
from tunesmith.hub.transfer.task import Means, Want
from tunesmith.hub.transfer.verify import Digest
from tunesmith.hub.transfer.wire import Wire
from tunesmith.hub.transfer.xet import equip

CONNECTIONS = 8


def fetch(
    sources: Sequence[Source],
    repo: str,
    revision: str = "main",
    kind: Kind = "model",
    include: Sequence[str] = (),
    cache: Path | None = None,
    connections: int = CONNECTIONS,
    report: Report | None = None,
    patience: Patience | None = None,
    xet: bool = False,
) -> Result:
    """Downloads the files that match one of the globs `include` (all, when there is none) at one commit.

    `cache` is HF_HUB_CACHE unless it is given; at most `connections` requests run at once; `xet`: through hf_xet what
    the hub has in Xet. Raises what the sources raise, CorruptArtifact, DiskFull, StoreNotWritable, HubUnavailable,
    EnvironmentMissing or ModelError; what has arrived by then, or by Ctrl-C, stays for the next call.
    """
    patience = patience or Patience()
    supply = Supply(sources, Asked(repo, revision, kind), patience)
    entries = [entry for entry in supply.listed.files if not include or _matches(entry.path, include)]
    if not entries:
        raise ModelError(f"No file of {repo} at {revision} matches {', '.join(include) or '*'}: check --include.")
    return bring(supply, entries, cache, connections, report, patience, xet)


def bring(
    supply: Supply,
    entries: Sequence[FileEntry],
    cache: Path | None = None,
    connections: int = CONNECTIONS,
    report: Report | None = None,
    patience: Patience | None = None,
    xet: bool = False,
) -> Result:
    """The same for files that are chosen already."""
    began, patience, report = time.monotonic(), patience or Patience(), report or Silent()
    asked, commit = supply.asked, supply.listed.commit
    for error in supply.refused.values():
        if supply.is_news(error.message):
            report.note(f"{error.message} Going on with the next source.")
    shelf = Shelf(cache or _default_cache(), asked.repo, asked.kind, commit, supply.sources[0].name)
    with explained(shelf.cache):
        missing, linked = _missing(shelf, entries, report)
        check_free_disk((want.entry for want in _wants(missing)), shelf.cache, _there(shelf, missing))
        used: set[str] = set()
        moved = _Moved(0, 0, 0)
        if missing:
            moved = _run(supply, shelf, missing, connections, report, patience, used, xet)
        # What was pinned earlier says nothing about where a branch stands now.
        if not supply.is_pinned:
            shelf.note_revision(asked.revision)
        shelf.tidy()
    total = sum(entry.size for entry in entries)
    return Result(
        path=shelf.snapshot,
        commit=commit,
        bytes_total=total,
        bytes_received=moved.received,
        bytes_reused=total - sum(entry.size for entry in missing) + moved.reused,
        seconds=time.monotonic() - began,
        sources=tuple(sorted(used)),
        verified=moved.verified + linked,
    )


class _Moved(NamedTuple):
    received: int
    """Bytes that arrived."""
    reused: int
    """Bytes that were in partial files before."""
    verified: int
    """Files."""


def _run(
    supply: Supply,
    shelf: Shelf,
    missing: Sequence[FileEntry],
    connections: int,
    report: Report,
    patience: Patience,
    used: set[str],
    xet: bool,
) -> _Moved:
    """Brings the missing files."""
    shelf.blobs.mkdir(parents=True, exist_ok=True)
    wire, patience = equip(connections, patience, report) if xet else (Wire(connections, patience), patience)
    means = Means(supply, shelf, wire, patience, report, threading.Condition(threading.RLock()), used=used)
    pool = Pool([(want, _key(want, shelf)) for want in _wants(missing)], means, connections)
    try:
        pool.run()
    finally:
        wire.close()
    verified = sum(len(task.want.entries) for task in pool.tasks if task.verified)
    return _Moved(pool.received(), pool.reused(), verified)


def _missing(shelf: Shelf, entries: Iterable[FileEntry], report: Report) -> tuple[list[FileEntry], int]:
    """Those not in the snapshot; and how many were linked to a blob of another commit, which is hashed first."""
    missing, linked = [], 0
    for entry in entries:
        if shelf.has(entry):
            continue
        if name := _blob_of(shelf, entry, report):
            shelf.link(entry.path, name)
            linked += 1
        else:
            missing.append(entry)
    return missing, linked


def _blob_of(shelf: Shelf, entry: FileEntry, report: Report) -> str | None:
    """The name of a blob with the entry's content, by its sha256 or as git names it; one that is damaged goes."""
    digest = Digest(entry.sha256, entry.git_id)
    for name in filter(None, (entry.sha256, entry.git_id)):
        blob = shelf.blob(name)
        # Another process may throw it away at the same time.
        with suppress(FileNotFoundError):
            if blob.stat().st_size != entry.size or not blob.is_file():
                continue
            if hashed(blob, digest) == digest.wanted:
                return name
            report.note(f"{entry.path} does not match its listed size or sha256: thrown away.")
            blob.unlink()
    return None


def _there(shelf: Shelf, missing: Iterable[FileEntry]) -> int:
    """Bytes that partial files take on the disk already."""
    there = 0
    for want in _wants(missing):
        part = shelf.part(_key(want, shelf))
        there += min(part.stat().st_blocks * 512, want.size) if part.exists() else 0
    return there


def _wants(entries: Iterable[FileEntry]) -> list[Want]:
    """One for each content, whatever number of names it has."""
    by_content: dict[str, list[FileEntry]] = {}
    for entry in entries:
        by_content.setdefault(entry.sha256 or f"at {entry.path}", []).append(entry)
    return [Want(group) for group in by_content.values()]


def _key(want: Want, shelf: Shelf) -> str:
    """The name of its partial: its sha256, else made of commit and path, which pin the content too."""
    place = f"{shelf.snapshot.name}\0{want.entry.path}"
    return want.entry.sha256 or hashlib.sha256(place.encode()).hexdigest()


def _matches(path: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(path, glob) for glob in globs)


def _default_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


__all__ = ["CONNECTIONS", "Progress", "Result", "bring", "fetch"]
