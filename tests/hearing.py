"""A listener for tests of stages."""

from collections.abc import Mapping
from typing import Any


class Heard:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.events: list[Mapping[str, Any]] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def event(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["event"] == kind]
