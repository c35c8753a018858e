"""A file that arrives in ranges, over several connections, into a partial that survives this process."""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import current_thread

from tunesmith.hub.transfer.copying import copy
from tunesmith.hub.transfer.faults import Broke, Dropped
from tunesmith.hub.transfer.journal import peek
from tunesmith.hub.transfer.owner import Owner
from tunesmith.hub.transfer.partial import Partial
from tunesmith.hub.transfer.ranges import Claim, Ranges
from tunesmith.hub.transfer.recheck import hashed
from tunesmith.hub.transfer.task import Means, Task, Want
from tunesmith.hub.transfer.verify import Follower, Keeper, Sealer

_WAIT_SECONDS = 0.5


class Large(Task):
    def __init__(self, want: Want, means: Means, key: str, wake: Callable[[Exception | None], None]) -> None:
        """`key` names the partial. `wake` is called, from any thread, when the file is done or cannot be."""
        super().__init__(want, means)
        self._key, self._wake = key, wake
        self._ranges = Ranges(want.size)
        self._owner = Owner(means.shelf.part(key), means.patience)
        self._opening: Claim | None = None
        self._partial: Partial | None = None
        self._keeper: Keeper | None = None
        self._followers: tuple[Follower, ...] = ()
        self._there = self._elsewhere = 0
        self._ended = False
        sha256 = want.entry.sha256
        self._identity = f"sha256:{sha256}" if sha256 else f"at:{key}"

    @property
    def opened(self) -> bool:
        return self._partial is not None or self._opening is not None

    @property
    def done(self) -> int:
        partial = self._partial
        if self.finished:
            return self.want.size
        return partial.received if partial else self._elsewhere

    def lags(self) -> bool:
        """Whether it arrives faster than it is hashed."""
        return self._keeper is not None and self._keeper.lags()

    @property
    def claims(self) -> list[Claim]:
        return [*self._ranges.claims, *([self._opening] if self._opening else [])]

    def claim(self, connections: int) -> Claim | None:
        if self._opening:
            return None
        if self._partial is None:
            self._opening = Claim(0, 0, alone=True)
            return self._opening
        claim = self._ranges.claim(self._partial.holes(), connections, self.whole_only)
        if claim:
            claim.epoch, claim.generation = self.epoch, self._partial.generation
        return claim

    def release(self, claim: Claim) -> None:
        self._ranges.release(claim)
        if claim is self._opening:
            self._opening = None

    def gained(self) -> int:
        before, self._there = self._there, self.done
        return max(self._there - before, 0)

    def carry(self, claim: Claim) -> None:
        if claim is self._opening:
            return self._open()
        there = self.where()
        if isinstance(there, Path):
            self.means.used.add(self.means.supply.sources[self.turn].name)
            return self._copy(claim, there)
        span = (0, None) if claim.alone else (claim.start, claim.end)
        with self.means.wire.open(self.ask(there, *span)) as answer:
            self.learn(claim, answer)
            self._write(claim, answer.chunks(), answer.end or claim.end)
        return None

    def restart(self) -> None:
        """Everything of it from the beginning; what older claims still bring is not written."""
        if self._partial is None:
            return None
        if not self._owner.holds():
            return self._lose()
        for claim in self._ranges.claims:
            claim.drop()
        self._partial.clear()
        self.reused = self._there = 0
        return self._watch(self._partial)

    def discard(self) -> None:
        # Nobody opens it again before the pool hears that it is over.
        self.not_before = math.inf
        if self._partial:
            self._partial.remove()
        self.close()

    def close(self) -> None:
        with self.means.lock:
            self._ended = True
            self._let_go()

    def _let_go(self, note: bool = True) -> None:
        for follower in self._followers:
            follower.stop()
        partial, self._partial = self._partial, None
        try:
            if partial:
                partial.close(note)
        finally:
            # Whatever the disk says: a mark that is kept alive would be waited for without end.
            with suppress(OSError):
                self._owner.give_up()

    def _open(self) -> None:
        """Takes the partial over from an earlier process; while another one writes it, looks again later."""
        shelf = self.means.shelf
        ours = self._owner.take()
        if shelf.has(self.want.entry) or self._is_there():
            self._owner.give_up()
            self.reused = self.want.size
            return self._place(self.want.entry.sha256)
        if not ours:
            self._elsewhere = peek(shelf.part(self._key), self.want.size, self._identity).total
            self.not_before = time.monotonic() + _WAIT_SECONDS
            return None
        try:
            partial = Partial(shelf.part(self._key), self.want.size, self._identity)
        except OSError:
            self._owner.give_up()
            raise
        with self.means.lock:
            self.reused = self._there = partial.found
            self._partial = partial
            if not self._ended:
                return self._watch(partial)
        # All the others ended while this one waited for the disk.
        return self._let_go()

    def _is_there(self) -> bool:
        """Whether somebody put the whole content there meanwhile; hashed, since others may not have looked at it."""
        shelf, entry = self.means.shelf, self.want.entry
        if entry.sha256 is None or not shelf.has_blob(entry):
            return False
        self.verified = hashed(shelf.blob(entry.sha256), self.digest) == entry.sha256
        if not self.verified:
            self.means.report.note(f"{entry.path} does not match its listed size or sha256: thrown away.")
            shelf.blob(entry.sha256).unlink(missing_ok=True)
        return self.verified

    def _watch(self, partial: Partial) -> None:
        for follower in self._followers:
            follower.stop()
        self._keeper = Keeper(partial, self.digest.start(self.want.size), self._whole, self._wake)
        self._followers = (self._keeper, Sealer(partial, self._owner.holds, self._wake))
        for follower in self._followers:
            follower.start()

    def _write(self, claim: Claim, chunks: Iterable[bytes], end: int) -> None:
        """Puts the bytes where they belong; `end`: the byte after the last that was promised."""
        partial, chunks = self._partial, iter(chunks)
        for chunk in chunks:
            if claim.dropped or partial is None:
                raise Dropped("no longer wanted")
            if not self._owner.holds():
                return self._lose()
            # Not the whole chunk where another connection has taken the rest away.
            data = chunk[: max(claim.end - claim.at, 0)]
            claim.received += len(data)
            if not partial.write(claim.at, data, claim.generation):
                raise Dropped("begun anew")
            claim.at += len(data)
            if claim.at >= claim.end or (claim.alone and not partial.holes()):
                if claim.at >= end:
                    # The answer's own end has to be seen for its connection to serve again.
                    next(chunks, None)
                return None
        if claim.at < min(claim.end, end):
            raise Broke("the answer ends early")
        return None

    def _copy(self, claim: Claim, file: Path) -> None:
        if self._partial is None:
            raise Dropped("no longer wanted")
        if not copy(file, self._partial, claim, self._owner.holds):
            self._lose()

    def _lose(self) -> None:
        """Another process took the partial over, since this one seemed dead: waits for it like any other."""
        with self.means.lock:
            self.epoch += 1
            for claim in self._ranges.claims:
                claim.drop()
            self._let_go(note=False)
            self._owner = Owner(self.means.shelf.part(self._key), self.means.patience)
            self.not_before = time.monotonic() + _WAIT_SECONDS

    def _whole(self, name: str) -> None:
        """Called from the keeper's thread, with the digest of what has arrived."""
        try:
            if self._keeper is not current_thread():
                return None
            if not self._owner.holds():
                self._lose()
            elif self.digest.wanted in (None, name):
                self._finish(name)
            else:
                with self.means.lock:
                    if self._keeper is current_thread():
                        self.wrong(self.want.entry.path)
        except Exception as error:
            return self._wake(error)
        return self._wake(None)

    def _finish(self, name: str) -> None:
        partial = self._partial
        if partial is None or not partial.finish(self.means.shelf.blob(name)):
            return
        self._owner.give_up()
        self.verified = self.digest.wanted is not None
        self._place(name)

    def _place(self, name: str | None) -> None:
        if name:
            for path in self.want.paths:
                self.means.shelf.link(path, name)
        self.finished = True
