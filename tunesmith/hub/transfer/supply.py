"""The sources of one download: what the repo holds, from the first that says so, and who else has the same bytes."""

import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from tunesmith.artifacts import FileEntry
from tunesmith.errors import HubUnavailable, ModelError, TunesmithError
from tunesmith.hub.names import check_commit, check_path, check_sha256
from tunesmith.hub.transfer.faults import Explained, Refused
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.source import Kind, Listed, Remote, Source

_LISTING_TRIES, _TRIES_BEFORE_ANOTHER = 4, 2
_MAIN, _COMMIT = "main", re.compile(r"[0-9a-f]{40}")
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
    exact: bool = False
    """Whether a source that has the revision, a commit, under that very name is preferred for the listing."""


class Pinned(NamedTuple):
    """What was listed earlier, and is to come exactly like that."""

    listed: Listed
    by: int | None
    """Number of the source that listed it; None when it is none of them."""


class Supply:
    """Sources in order of preference; thread-safe."""

    def __init__(
        self, sources: Sequence[Source], asked: Asked, patience: Patience | None = None, pinned: Pinned | None = None
    ) -> None:
        """Without `pinned` the sources are asked at once, and raise what they raise when none of them answers."""
        self.sources, self.asked, self._patience = tuple(sources), asked, patience or Patience()
        self.is_pinned = pinned is not None
        self._listed: dict[int, Listed] = {}
        self.refused: dict[int, TunesmithError] = {}
        """Why a source was passed over altogether, by number."""
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._asking = [threading.Lock() for _ in self.sources]
        """One for each, since a listing may take minutes."""
        self._known: Listed | None = None
        self.by, self._known = (pinned.by, pinned.listed) if pinned else self._first()
        """Number of the source that listed what is wanted."""
        if pinned and pinned.by is not None:
            self._listed[pinned.by] = pinned.listed

    @property
    def listed(self) -> Listed:
        """Of the first source that answers, or what was pinned."""
        assert self._known is not None
        return self._known

    def usable(self) -> list[int]:
        """Numbers of the sources that have not failed altogether."""
        return [number for number in range(len(self.sources)) if number not in self.refused]

    def lister(self, otherwise: int) -> Source:
        """Who said what is wanted; where it is not among the sources, the one of this number."""
        return self.sources[otherwise if self.by is None else self.by]

    def is_news(self, message: str) -> bool:
        """Whether nobody has been told this yet: what is wrong with a source is said once, not for each file."""
        with self._lock:
            known = message in self._told
            self._told.add(message)
            return not known

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

    def _first(self) -> tuple[int, Listed]:
        other: tuple[int, Listed] | None = None
        for number in range(len(self.sources)):
            with suppress(TunesmithError):
                listed = self._of(number)
                if listed.commit == self.asked.revision or not self.asked.exact:
                    return number, listed
                other = other or (number, listed)
        if other:
            return other
        raise next(iter(self.refused.values()))

    def _of(self, number: int) -> Listed:
        """A source's own listing; one that has none is not asked again."""
        with self._asking[number]:
            if number in self.refused:
                raise self.refused[number]
            if number not in self._listed:
                try:
                    self._listed[number] = self._checked(self._ask(number), self.sources[number].name)
                except TunesmithError as error:
                    self.refused[number] = error
                    raise
            return self._listed[number]

    def _ask(self, number: int) -> Listed:
        """A second source is asked for the first one's commit; one with commits of its own, for the revision.

        Where the revision is a commit that it does not know either, its main branch may hold the same files.
        """
        source, (repo, revision, kind, _) = self.sources[number], self.asked
        if self._known is None:
            tries = _TRIES_BEFORE_ANOTHER if number + 1 < len(self.sources) else _LISTING_TRIES
            return patiently(lambda: source.listing(repo, revision, kind), self._patience, tries)
        *others, last = dict.fromkeys([self._known.commit, revision, *([_MAIN] if _COMMIT.fullmatch(revision) else [])])
        for other in others:
            with suppress(ModelError):
                return patiently(partial(source.listing, repo, other, kind), self._patience)
        return patiently(lambda: source.listing(repo, last, kind), self._patience)

    def _checked(self, listed: Listed, name: str) -> Listed:
        check_commit(listed.commit, name)
        for entry in listed.files:
            check_sha256(entry.sha256, check_path(entry.path, name), name)
        if path := _clash([entry.path for entry in listed.files]):
            raise ModelError(f"{name} lists {path!a} twice, or as a file and a folder: do not use it.")
        return listed

    def _same(self, listed: Listed, entry: FileEntry, held: bool) -> FileEntry:
        if listed is self._known:
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
    names = ((entry.sha256, other.sha256), (entry.git_id, other.git_id))
    return all(one == another for one, another in names if one and another)


def patiently(ask: Callable[[], _T], patience: Patience, tries: int = _LISTING_TRIES) -> _T:
    """What `ask` returns; asked again while the hub does not answer. Raises what the last try did."""
    for failures in range(1, tries):
        try:
            return ask()
        except HubUnavailable as error:
            time.sleep(max(patience.backoff(failures), patience.wait(error.retry_after)))
    return ask()
