"""A download as a person sees it: bars on a terminal, a line now and then in a log; both on stderr."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import (
    Progress as Bars,
)

from tunesmith.hub.transfer.report import Progress, Report

_LINE_SECONDS = 5.0
_MB = 1e6


class Lines:
    """One line every few seconds, and one for each note."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = time.monotonic()

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._said < _LINE_SECONDS and progress.done < progress.total:
            return
        self._said = now
        self._print(describe(progress))

    def note(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


class OnTerminal:
    """A bar for the whole, and one for each file under way."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._total = bars.add_task("total", total=None)
        self._files: dict[str, TaskID] = {}

    def progress(self, progress: Progress) -> None:
        self._bars.update(self._total, completed=progress.done, total=progress.total)
        under_way = {path for path, _, _ in progress.files}
        for path in [path for path in self._files if path not in under_way]:
            self._bars.remove_task(self._files.pop(path))
        for path, done, size in progress.files:
            if path not in self._files:
                self._files[path] = self._bars.add_task(escape(path), total=size)
            self._bars.update(self._files[path], completed=done)

    def note(self, text: str) -> None:
        self._bars.console.print(text, soft_wrap=True, highlight=False, markup=False)


@contextmanager
def shown() -> Iterator[Report]:
    """Who listens to a download that was started on the command line."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        yield OnTerminal(bars)


def describe(progress: Progress) -> str:
    """Bytes, share, rate and time left, in a line."""
    share = progress.done / progress.total if progress.total else 1.0
    text = (
        f"{progress.done / _MB:,.1f} of {progress.total / _MB:,.1f} MB ({share:.0%}), {progress.rate / _MB:,.1f} MB/s"
    )
    left = progress.total - progress.done
    if left and progress.rate:
        text += f", {left / progress.rate:,.0f} s left over {progress.connections} connections"
    return text
