"""Showing a stage while it works: its log in the run's log, its progress as a Prefect artifact."""

import logging
import time
from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tunesmith.errors import TunesmithError
from tunesmith.hub.transfer.report import Progress, describe

_EVERY_SECONDS = 2.0
_LINE_SECONDS = 10.0


class RunLog:
    """Passes a stage's lines and events to the task run it was made in."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.logger = get_run_logger()
        self.artifact: UUID | None = None
        self.shown_at, self.shown = 0.0, -1.0
        self.logged_at = time.monotonic()

    def line(self, text: str) -> None:
        if text.strip():
            self.logger.info("%s | %s", self.stage, text)

    def event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "progress" and event.get("total"):
            percent, text = 100.0 * event["done"] / event["total"], told(event)
            self._show(percent, text)
            # Other stages have lines of their own.
            if event.get("unit") == "B":
                self._log(percent, text)
        if event["event"] == "note":
            self.logger.info("%s | %s", self.stage, event["text"])

    def _show(self, percent: float, text: str) -> None:
        # An update costs the server some 70 ms: often enough to watch, seldom enough not to matter.
        is_soon = time.monotonic() - self.shown_at < _EVERY_SECONDS
        if is_soon and (percent < 100 or self.shown >= 100):
            return
        self.shown_at, self.shown = time.monotonic(), percent
        description = f"{self.stage}: {text}"
        if self.artifact is None:
            key = f"{self.stage.replace('/', '-').replace('.', '-')}-progress"
            self.artifact = cast(UUID, create_progress_artifact(percent, key=key, description=description))
        else:
            update_progress_artifact(self.artifact, percent, description=description)

    def _log(self, percent: float, text: str) -> None:
        if percent < 100 and time.monotonic() - self.logged_at >= _LINE_SECONDS:
            self.logged_at = time.monotonic()
            self.logger.info("%s | %s", self.stage, text)


def told(event: Mapping[str, Any]) -> str:
    """How far a stage is, in words: bytes with rate and time left, else `12 of 40 steps (30%)`."""
    done, total, unit = event["done"], event["total"], event.get("unit", "")
    if unit == "B":
        return describe(Progress(done, total, event.get("rate", 0.0), event.get("connections", 0)))
    return f"{done:,} of {total:,} {unit}s ({done / total:.0%})"


class _OneSentence(logging.Filter):
    """Drops the stack trace of errors whose message already says what to do."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], TunesmithError):
            record.exc_info = None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_OneSentence())
