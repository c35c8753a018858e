"""Showing a stage while it works: its log in the run's log, its progress as a Prefect artifact."""

import logging
import time
from collections.abc import Mapping
from typing import Any, cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tunesmith.errors import TunesmithError

_EVERY_SECONDS = 2.0


class RunLog:
    """Passes a stage's lines and events to the task run it was made in."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.logger = get_run_logger()
        self.artifact: UUID | None = None
        self.shown_at = 0.0

    def line(self, text: str) -> None:
        if text.strip():
            self.logger.info("%s | %s", self.stage, text)

    def event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "progress" and event.get("total"):
            self._show(100.0 * event["done"] / event["total"])
        if event["event"] == "note":
            self.logger.info("%s | %s", self.stage, event["text"])

    def _show(self, percent: float) -> None:
        # An update costs the server some 70 ms: often enough to watch, seldom enough not to matter.
        if time.monotonic() - self.shown_at < _EVERY_SECONDS and percent < 100:
            return
        self.shown_at = time.monotonic()
        if self.artifact is None:
            key = f"{self.stage.replace('/', '-').replace('.', '-')}-progress"
            self.artifact = cast(UUID, create_progress_artifact(percent, key=key, description=self.stage))
        else:
            update_progress_artifact(self.artifact, percent)


class _OneSentence(logging.Filter):
    """Drops the stack trace of errors whose message already says what to do."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], TunesmithError):
            record.exc_info = None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_OneSentence())
