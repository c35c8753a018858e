"""The sources of one download: what the repo holds, from the first that says so, and who else has the same bytes."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from tunesmith.artifacts import FileEntry
from tunesmith.errors import HubUnavailable, ModelError, TunesmithError
from tunesmith.hub.names import check_commit, check_path, check_sha256
from tunesmith.hub.transfer.faults import Explained, Refused
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.source import Kind, Listed, Remote, Source
from tunesmith.hub.transfer.verify import git_id

_LISTING_TRIES = 4
_T = TypeVar("_T")


@runtime_checkable
class Explains(Protocol):
    """A source that can say in a sentence why it refused a file."""

    def refusal(self, status: int, code: str | None, repo: str, commit: str, kind: Kind) -> TunesmithError:
        """For an answer with this status and, where there was one, this `X-Error-Code`."""


class Asked(NamedTuple):
    """What is being downloaded."""

    repo: str
    revision: str
    kind: Kind


class Supply:
    """Sources in order of preference; thread-safe."""

    def __init__(self, sources: Sequence[Source], asked: Asked, patience: Patience | None = None) -> None:
        self.sources, self.asked, self._patience = tuple(sources), asked, patience or Patience()
        self._listed: dict[int, Listed] = {}
        self.refused: dict[int, TunesmithError] = {}
        """Why a source was passed over altogether, by number."""
        self._lock = threading.Lock()
        self.listed = self._first()
        """Of the first source that answers."""

    def usable(self) -> list[int]:
        """Numbers of the sources that have not failed altogether."""
        return [number for number in range(len(self.sources)) if number not in self.refused]

    def git_id(self, entry: FileEntry) -> str | None:
        """What the source that listed a file without sha256 says git calls it; None when it does not say."""
        for number, listed in self._listed.items():
            if entry.sha256 is None and listed is self.listed:
                with suppress(TunesmithError):
                    there = self.sources[number].locate(self.asked.repo, listed.commit, entry, self.asked.kind)
                    return git_id(there.etag) if isinstance(there, Remote) else None
        return None

    def locate(self, number: int, entry: FileEntry, held: bool) -> Remote | Path:
        """Where that source has the same bytes; `held`: their digest is known. Raises Explained or Refused."""
        source = self.sources[number]
        try:
            listed = self._of(number)
            there = self._same(listed, entry, held)
            return source.locate(self.asked.repo, listed.commit, there, self.asked.kind)
        except TunesmithError as error:
            raise Explained(error) from error

    def explain(self, number: int, fault: Exception) -> TunesmithError:
        """The sentence for the last fault that a source's file came to."""
        source = self.sources[number]
        if isinstance(fault, Explained):
            return fault.error
        if isinstance(fault, Refused):
            if fault.status and isinstance(source, Explains):
                return source.refusal(fault.status, fault.code, self.asked.repo, self.listed.commit, self.asked.kind)
            return ModelError(f"{source.name} {fault}: name another source.")
        return HubUnavailable(
            f"The hub {source.name} did not answer or broke off ({fault}): "
            "check the network and HF_ENDPOINT, then run the same command again."
        )

    def _first(self) -> Listed:
        for number in range(len(self.sources)):
            try:
                return self._of(number)
            except TunesmithError as error:
                self.refused[number] = error
        raise next(iter(self.refused.values()))

    def _of(self, number: int) -> Listed:
        with self._lock:
            if number not in self._listed:
                self._listed[number] = self._checked(self._ask(number), self.sources[number].name)
            return self._listed[number]

    def _ask(self, number: int) -> Listed:
        """A second source is asked for the first one's commit; one with commits of its own, for the revision."""
        source, (repo, revision, kind) = self.sources[number], self.asked
        if self._listed:
            try:
                return patiently(lambda: source.listing(repo, self.listed.commit, kind), self._patience)
            except ModelError:
                pass
        return patiently(lambda: source.listing(repo, revision, kind), self._patience)

    def _checked(self, listed: Listed, name: str) -> Listed:
        check_commit(listed.commit, name)
        for entry in listed.files:
            check_sha256(entry.sha256, check_path(entry.path, name), name)
        if path := _clash([entry.path for entry in listed.files]):
            raise ModelError(f"{name} lists {path!a} twice, or as a file and a folder: do not use it.")
        return listed

    def _same(self, listed: Listed, entry: FileEntry, held: bool) -> FileEntry:
        if listed is self.listed:
            return entry
        known = held or listed.commit == self.listed.commit
        for other in listed.files:
            named = other.path == entry.path or (entry.sha256 and other.sha256 == entry.sha256)
            if named and _may_be_same(entry, other, known):
                return other
        raise Refused(f"has no {entry.path} with the same content")


def _clash(paths: Sequence[str]) -> str | None:
    """A path that cannot be placed beside the others."""
    files: set[str] = set()
    for path in paths:
        if path in files:
            return path
        files.add(path)
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
    return next(iter(files & folders), None)


def _may_be_same(entry: FileEntry, other: FileEntry, known: bool) -> bool:
    """`known`: the content will be held to a digest, or the commit is the same."""
    if entry.size != other.size or not known:
        return False
    return not (entry.sha256 and other.sha256) or entry.sha256 == other.sha256


def patiently(ask: Callable[[], _T], patience: Patience, tries: int = _LISTING_TRIES) -> _T:
    """What `ask` returns; asked again while the hub does not answer. Raises what the last try did."""
    for failures in range(1, tries):
        try:
            return ask()
        except HubUnavailable as error:
            time.sleep(max(patience.backoff(failures), patience.wait(error.retry_after)))
    return ask()
