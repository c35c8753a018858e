"""Threads that bring files: who brings what next, how many at once, and what ends it all."""

import threading
import time
from collections import deque
from collections.abc import Iterable

from tunesmith.hub.transfer.connections import end_overdue
from tunesmith.hub.transfer.faults import Broke, Fault
from tunesmith.hub.transfer.large import Large
from tunesmith.hub.transfer.pace import Gauge, Speed, too_slow
from tunesmith.hub.transfer.place import explain
from tunesmith.hub.transfer.ranges import Claim
from tunesmith.hub.transfer.report import Progress
from tunesmith.hub.transfer.small import SMALL_BYTES, Small
from tunesmith.hub.transfer.task import Means, Task, Want

_LOOK_SECONDS = 0.1
_REPORT_SECONDS = 0.5
_END_SECONDS = 1.2
_IDLE_SECONDS = 0.25
_FILE_WORTH = 64 << 10
"""Bytes that a finished file counts for, beside its own, when it is judged whether more connections help."""


class Pool:
    """One download's tasks and threads."""

    def __init__(self, wants: Iterable[tuple[Want, str]], means: Means, connections: int) -> None:
        """Each want with the name of its partial."""
        self._means, self._lock, self._most = means, means.lock, connections
        self.tasks: list[Task] = []
        for want, key in wants:
            is_small = want.size <= SMALL_BYTES
            self.tasks.append(Small(want, means) if is_small else Large(want, means, key, self._wake))
        self._small = deque(task for task in self.tasks if isinstance(task, Small))
        self._large = [task for task in self.tasks if isinstance(task, Large)]
        self._large.sort(key=lambda task: -task.want.size)
        self._gauge, self._speed = Gauge(connections), Speed()
        self._at_work: dict[Claim, Task] = {}
        self._finished = 0
        self._ended = False
        self._over = threading.Event()
        self._error: Exception | None = None
        self._reported = 0.0

    def run(self) -> None:
        """Returns when every file is in its place. Raises the first error that no source and no retry helps against."""
        count = min(self._most, len(self.tasks) if not self._large else self._most)
        threads = [threading.Thread(target=self._work, name=f"download {n}", daemon=True) for n in range(count)]
        for thread in threads:
            thread.start()
        try:
            self._check()
            while not self._over.wait(_LOOK_SECONDS):
                self._look()
        finally:
            self._end(threads)
        if self._error:
            raise self._error
        self._report(time.monotonic())

    def _end(self, threads: list[threading.Thread]) -> None:
        """Ends every connection; one that is still being made is left to its timeout, and writes nothing more."""
        with self._lock:
            self._ended = True
            for claim in self._at_work:
                claim.drop()
            self._lock.notify_all()
        deadline = time.monotonic() + _END_SECONDS
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))
        for task in self.tasks:
            try:
                task.close()
            except OSError as error:
                self._error = self._error or explain(error, self._means.shelf.cache) or error

    def _work(self) -> None:
        while job := self._next():
            task, claim = job
            fault: Fault | None = None
            try:
                task.carry(claim)
            except Fault as error:
                fault = error
            except Exception as error:
                self._wake(error)
            self._settle(task, claim, fault)

    def _next(self) -> tuple[Task, Claim] | None:
        with self._lock:
            while not self._ended:
                if len(self._at_work) < self._gauge.limit and (job := self._pick()):
                    self._at_work[job[1]] = job[0]
                    return job
                self._lock.wait(_IDLE_SECONDS)
        return None

    def _settle(self, task: Task, claim: Claim, fault: Fault | None) -> None:
        with self._lock:
            self._at_work.pop(claim, None)
            try:
                task.settle(claim, fault)
            except Exception as error:
                self._wake(error)
            if isinstance(fault, Broke) and fault.busy:
                self._gauge.busy(time.monotonic())
            if isinstance(task, Small):
                self._finished += task.finished
                self._small.extend([] if task.finished else [task])
            self._check()
            self._lock.notify_all()

    def _pick(self) -> tuple[Task, Claim] | None:
        """A large file keeps a part of the connections busy while small ones are brought."""
        now = time.monotonic()
        large = sum(isinstance(task, Large) for task in self._at_work.values())
        first, second = self._pick_large, self._pick_small
        if large >= max(1, self._gauge.limit // 2):
            first, second = second, first
        return first(now) or second(now)

    def _pick_small(self, now: float) -> tuple[Task, Claim] | None:
        for _ in range(min(len(self._small), 32)):
            task = self._small.popleft()
            if task.ready(now) and (claim := task.claim(self._gauge.limit)):
                return task, claim
            self._small.append(task)
        return None

    def _pick_large(self, now: float) -> tuple[Task, Claim] | None:
        """Files that are begun come first; others are begun while there are fewer of them than connections."""
        open_ones = sorted((task for task in self._large if task.opened), key=lambda task: len(task.claims))
        others = [task for task in self._large if not task.opened]
        idle = [task for task in open_ones if not task.claims]
        fresh = others if len(open_ones) < self._gauge.limit else []
        for task in [*idle, *fresh, *(task for task in open_ones if task.claims)]:
            if task.ready(now) and (claim := task.claim(self._gauge.limit)):
                return task, claim
        return None

    def _wake(self, error: Exception | None) -> None:
        """Something is done, or cannot be."""
        if error is None:
            with self._lock:
                return self._check()
        if isinstance(error, OSError):
            error = explain(error, self._means.shelf.cache) or error
        self._error = self._error or error
        self._over.set()
        return None

    def _check(self) -> None:
        self._large = [task for task in self._large if not task.finished]
        if not self._large and not self._small and not any(isinstance(t, Small) for t in self._at_work.values()):
            self._over.set()

    def _look(self) -> None:
        now = time.monotonic()
        end_overdue()
        with self._lock:
            if self._lags():
                self._gauge.behind(now)
            self._gauge.look(now, self.received() + _FILE_WORTH * self._finished, len(self._at_work))
            for claim in too_slow(self._at_work, now, self._means.patience):
                claim.drop()
            self._lock.notify_all()
        if now - self._reported >= _REPORT_SECONDS:
            self._report(now)

    def _lags(self) -> bool:
        """Whether all that is on its way arrives faster than it is hashed."""
        tasks = set(self._at_work.values())
        return bool(tasks) and all(isinstance(task, Large) and task.lags() for task in tasks)

    def reused(self) -> int:
        """Bytes that were on the disk before."""
        return sum(task.reused for task in self.tasks)

    def received(self) -> int:
        """Bytes that have arrived so far."""
        return sum(task.received for task in self.tasks) + sum(claim.received for claim in self._at_work)

    def _report(self, now: float) -> None:
        self._reported = now
        with self._lock:
            rate = self._speed.add(now, self.received())
            done = sum(task.done for task in self.tasks)
            busy = {id(task): task for task in self._at_work.values()}.values()
            files = tuple((task.want.entry.path, task.done, task.want.size) for task in busy)
        total = sum(task.want.size for task in self.tasks)
        self._means.report.progress(Progress(done, total, rate, len(self._at_work), files))
