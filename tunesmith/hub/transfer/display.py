"""A download as a person sees it: bars on a terminal, a line now and then in a log; both on stderr."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn
from rich.progress import (
    Progress as Bars,
)

from tunesmith.hub.transfer.pace import Speed
from tunesmith.hub.transfer.report import Progress, Report, describe, pace

_LINE_SECONDS = 5.0


class Lines:
    """One line every few seconds, and one for each note."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = time.monotonic()
        self._ended = False

    def progress(self, progress: Progress) -> None:
        """Once more at the end, though the last bytes may be hashed for a while yet."""
        now, ends = time.monotonic(), progress.done >= progress.total
        if (now - self._said < _LINE_SECONDS and not ends) or (ends and self._ended):
            return
        self._said, self._ended = now, ends
        self._print(describe(progress))

    def note(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


class OnTerminal:
    """A bar for the whole, and one for each file under way."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._total = bars.add_task("total", total=None, pace="")
        self._files: dict[str, _File] = {}

    def progress(self, progress: Progress) -> None:
        self._bars.update(self._total, completed=progress.done, total=progress.total, pace=pace(progress))
        under_way = {path for path, _, _ in progress.files}
        for path in [path for path in self._files if path not in under_way]:
            self._bars.remove_task(self._files.pop(path).task)
        for path, done, size in progress.files:
            if path not in self._files:
                self._files[path] = _File(self._bars.add_task(escape(path), total=size, pace=""))
            file = self._files[path]
            self._bars.update(file.task, completed=done, pace=file.pace(done, size))

    def note(self, text: str) -> None:
        self._bars.console.print(text, soft_wrap=True, highlight=False, markup=False)


class _File:
    """One that is under way; bytes that an earlier process left say nothing about its rate."""

    def __init__(self, task: TaskID) -> None:
        self.task = task
        self._done = 0
        self._speed = Speed()

    def pace(self, done: int, size: int) -> str:
        if self._done == 0 or done < self._done:
            self._speed = Speed()
        self._done = done
        return pace(Progress(done, size, self._speed.add(time.monotonic(), done), 0))


@contextmanager
def shown(console: Console | None = None) -> Iterator[Report]:
    """Who listens to a download that was started on the command line; stderr unless another console is given."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TextColumn("{task.fields[pace]}"))
    with Bars(*columns, console=console, transient=True) as bars:
        yield OnTerminal(bars)
