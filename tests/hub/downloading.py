"""One download through a hub that misbehaves, held to what the hub has."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hub.content import Content, MadeUp
from tests.hub.faults import FaultyHub
from tests.hub.outcomes import Outcomes
from tests.hub.repo import Repo, tiny_repo
from tunesmith.errors import TunesmithError
from tunesmith.hub.transfer.engine import fetch
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.report import Progress, Result
from tunesmith.hub.transfer.source import Source
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.store import sha256

REPO = "acme/tiny"
SIZE = 24_000_000
RIGHT = "recovered"


class Heard:
    """What was reported."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[Progress] = []

    @property
    def last(self) -> Progress | None:
        return self.steps[-1] if self.steps else None

    def progress(self, progress: Progress) -> None:
        self.steps.append(progress)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Download(NamedTuple):
    """Everything a download needs, with the cache it goes to."""

    cache: Path
    patience: Patience
    heard: Heard
    xet: bool = False

    def fetch(self, *hubs: FaultyHub | str, revision: str = "main", include: Sequence[str] = ()) -> Result:
        addresses = [hub if isinstance(hub, str) else hub.address for hub in hubs]
        return self.fetch_from([HuggingFace(address) for address in addresses], revision, include)

    def fetch_from(self, sources: Sequence[Source], revision: str = "main", include: Sequence[str] = ()) -> Result:
        return fetch(sources, REPO, revision, "model", include, self.cache, 8, self.heard, self.patience, self.xet)

    def refusal(
        self, kind: type[TunesmithError], hub: FaultyHub | str, table: Outcomes, section: str, fault: str
    ) -> str:
        """The sentence it ends with, noted in the table; the error is of exactly this kind."""
        with pytest.raises(TunesmithError) as caught:
            self.fetch(hub)
        message = str(caught.value)
        assert type(caught.value) is kind and "\n" not in message, message
        table.note(section, fault, f"refused ({kind.__name__}): {message}")
        return message


def repo_of(size: int = SIZE, **more: Content) -> Repo:
    return tiny_repo(MadeUp(size), **more)


def assert_right(result: Result, files: dict[str, Content]) -> None:
    """Every file is there with its content, and nothing is beside it that a finished download does not need."""
    for path, content in files.items():
        assert (result.path / path).stat().st_size == content.size
        assert sha256(result.path / path) == content.sha256, path
    assert leftovers(result.path) == []


def leftovers(snapshot: Path) -> list[str]:
    """Files beside the blobs that this snapshot does not lead to."""
    linked = {path.resolve() for path in snapshot.rglob("*")}
    return sorted(path.name for path in (snapshot.parents[1] / "blobs").iterdir() if path.resolve() not in linked)


def blobs(cache: Path) -> list[Path]:
    """Finished contents in the cache."""
    return [path for path in cache.glob("*/blobs/*") if "." not in path.name]
