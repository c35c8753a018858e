"""One file to bring: which source is asked, what failed so far, and when to ask again."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition

from tunesmith.artifacts import FileEntry
from tunesmith.errors import CorruptArtifact, TunesmithError
from tunesmith.hub.transfer.faults import Broke, Changed, Dropped, Fault, Gone, NoRanges, Refused
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.place import Shelf
from tunesmith.hub.transfer.ranges import Claim
from tunesmith.hub.transfer.report import Report
from tunesmith.hub.transfer.source import Remote
from tunesmith.hub.transfer.supply import Supply
from tunesmith.hub.transfer.verify import Digest
from tunesmith.hub.transfer.wire import Answer, Ask, Wire

_PROGRESS_BYTES = 64 << 10
_TIMES_WRONG = 2
_TRIES_OF_THE_SILENT = 3


@dataclass(frozen=True)
class Means:
    """What every task of a download works with."""

    supply: Supply
    shelf: Shelf
    wire: Wire
    patience: Patience
    report: Report
    lock: Condition
    """Of the pool: held around every change of what is asked of whom."""
    pauses: dict[int, float] = field(default_factory=dict)
    """When a source that asked to be left alone may be asked again."""
    used: set[str] = field(default_factory=set)
    """Names of the sources that bytes came from."""
    silent: set[int] = field(default_factory=set)
    """Numbers of those that one file has given up on before they sent a byte: the other files wait for them no more."""


class Want:
    """One content to bring, under one or several names."""

    def __init__(self, entries: list[FileEntry]) -> None:
        self.entries = entries
        self.entry = entries[0]
        self.size = self.entry.size

    @property
    def paths(self) -> list[str]:
        return [entry.path for entry in self.entries]


class Task(ABC):
    """Base of small and large files. The pool's lock is held around `ready`, `claim` and `settle`, nothing else."""

    def __init__(self, want: Want, means: Means) -> None:
        self.want, self.means = want, means
        self.digest = Digest(want.entry.sha256, want.entry.git_id)
        self.finished = False
        self.verified = False
        """Whether this download held it to a digest."""
        self.not_before = 0.0
        self.received = 0
        """Bytes that arrived for it, apart from those of claims that are still at work."""
        self.reused = 0
        self.turn = means.supply.usable()[0]
        """Number of the source that is asked."""
        self.epoch = 0
        self.whole_only = False
        self._refused: set[int] = set()
        self._errors: list[TunesmithError] = []
        self._wrong: dict[int, int] = {}
        self._remote: Remote | Path | None = None
        self._address: str | None = None
        self._etag: str | None = None
        self._failures, self._failed_at, self._gained, self._changes = 0, 0.0, 0, 0

    @property
    @abstractmethod
    def done(self) -> int:
        """Bytes of it that are there."""

    @property
    @abstractmethod
    def claims(self) -> list[Claim]:
        """What is being brought for it."""

    @abstractmethod
    def claim(self, connections: int) -> Claim | None:
        """Something to bring now."""

    @abstractmethod
    def carry(self, claim: Claim) -> None:
        """Brings it. Raises a Fault, TunesmithError or OSError."""

    @abstractmethod
    def release(self, claim: Claim) -> None:
        """It is no longer being brought."""

    def gained(self) -> int:
        """Bytes that have come to stay since it was last asked."""
        return 0

    @abstractmethod
    def restart(self) -> None:
        """Throws away what has arrived."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of what is open; what has arrived stays for the next run."""

    def ready(self, now: float) -> bool:
        return not self.finished and now >= max(self.not_before, self.means.pauses.get(self.turn, 0.0))

    def settle(self, claim: Claim, fault: Fault | None) -> None:
        """Takes a claim back, with what became of it. Raises TunesmithError when no source is left."""
        if claim.dropped and isinstance(fault, Broke):
            fault = Broke("far too slow")
        self.release(claim)
        self.received += claim.received
        self._gained += self.gained()
        if self._gained >= _PROGRESS_BYTES:
            self._failures, self._gained = 0, 0
            self._changes = 0 if self.digest.wanted else self._changes
        if fault is None or isinstance(fault, Dropped) or claim.epoch != self.epoch:
            return
        if isinstance(fault, NoRanges):
            self.whole_only, self.epoch = True, self.epoch + 1
        elif isinstance(fault, Refused | Changed) or not isinstance(fault, Broke | Gone):
            self._object(fault)
        elif claim.began >= self._failed_at:
            self._again(fault)

    def wrong(self, name: str) -> None:
        """What arrived has another digest than is listed: thrown away, and fetched again from the next source.

        Raises CorruptArtifact when every source has had its chance, the only one twice.
        """
        self.means.report.note(f"{name} does not match its listed size or sha256: thrown away.")
        self._wrong[self.turn] = self._wrong.get(self.turn, 0) + 1
        left = [number for number in self._left() if not self._wrong.get(number)]
        alone = sum(self._wrong.values()) < _TIMES_WRONG
        if not left and not alone:
            self.discard()
            raise CorruptArtifact(
                f"{name} of {self.means.supply.asked.repo} stays different from what "
                f"{self.means.supply.lister(self.turn).name} lists, fetched anew: "
                "tell the hub's owner, or set another model.hub."
            )
        self._forget(left[0] if left else self.turn)
        self.restart()

    @abstractmethod
    def discard(self) -> None:
        """Leaves nothing of it on the disk."""

    def where(self) -> Remote | Path:
        """What the source says. Raises Explained or Refused."""
        epoch, there = self.epoch, self._remote
        if there is None:
            there = self.means.supply.locate(self.turn, self.want.entry, self.digest.wanted is not None)
            if isinstance(there, Remote) and self._wrong.get(self.turn):
                # What was wrong may have come through Xet: fetched anew, it comes the other way.
                there = there._replace(xet=False)
            if epoch == self.epoch:
                self._remote = there
        return there

    def ask(self, remote: Remote, start: int = 0, end: int | None = None) -> Ask:
        # Where the digest is known, two servers may call the same bytes by two names.
        etag = None if self.digest.wanted else self._etag
        return Ask(remote, self.want.size, start, end, self._address, etag)

    def learn(self, claim: Claim, answer: Answer) -> None:
        """Remembers where a request was led to, and gives the claim its connection."""
        claim.answer, claim.alone = answer, claim.alone or answer.together
        if claim.dropped:
            raise Dropped("no longer wanted")
        if claim.epoch == self.epoch:
            self._address, self._etag = answer.address, answer.etag
        self.means.used.add(self.means.supply.sources[self.turn].name)

    def _again(self, fault: Broke | Gone) -> None:
        """The same source once more, later, unless it has failed too often in a row."""
        self._failures += 1
        if self._is_hopeless():
            return self._object(fault)
        if isinstance(fault, Gone):
            self._forget(self.turn)
        now = self._failed_at = time.monotonic()
        if isinstance(fault, Broke) and fault.wait_s:
            self.means.pauses[self.turn] = now + fault.wait_s
        at_once = isinstance(fault, Gone) and self._failures == 1
        self.not_before = now if at_once else now + self.means.patience.backoff(self._failures)
        return None

    def _is_hopeless(self) -> bool:
        """Whether to go on with the next source: sooner, for every file at once, when this one never sent a byte."""
        means, tries = self.means, self.means.patience.tries
        if len(self._left()) > 1 and means.supply.sources[self.turn].name not in means.used:
            if self._failures >= min(tries, _TRIES_OF_THE_SILENT):
                means.silent.add(self.turn)
            return self.turn in means.silent
        return self._failures > tries

    def _object(self, fault: Fault) -> None:
        """On to the next source, for good; a file that changed is asked for once more first, and begun anew where no
        digest says what has arrived is worth.
        """
        if isinstance(fault, Changed):
            self._changes += 1
            self.means.report.note(f"{self.want.entry.path}: {self.means.supply.sources[self.turn].name} {fault}.")
            if self._changes == 1:
                self._forget(self.turn)
                return None if self.digest.wanted else self.restart()
            fault = Refused(str(fault))
        error = self.means.supply.explain(self.turn, fault)
        self._errors.append(error)
        self._refused.add(self.turn)
        left = self._left()
        if not left:
            # Of several sources' errors the preferred one's says most.
            raise self._errors[0]
        if self.means.supply.is_news(error.message):
            self.means.report.note(f"{self.want.entry.path}: {error.message} Going on with the next source.")
        self._failures, self._changes = 0, 0
        return self._forget(left[0])

    def _left(self) -> list[int]:
        return [number for number in self.means.supply.usable() if number not in self._refused]

    def _forget(self, turn: int) -> None:
        """What was known about the address is no longer so; what is under way is of an older epoch."""
        if turn != self.turn:
            self.whole_only = False
        self.turn, self.epoch = turn, self.epoch + 1
        self._remote = self._address = self._etag = None
