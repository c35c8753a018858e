"""What the tests of downloads share: short patience, a hub that misbehaves, and the table of faults and outcomes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.downloading import Download, Heard
from tests.hub.outcomes import Outcomes
from tunesmith.hub.transfer.patience import Patience


@pytest.fixture
def patience() -> Patience:
    """Everything happens within a second or two."""
    return Patience(
        connect_s=2,
        read_s=0.6,
        backoff_s=0.02,
        longest_backoff_s=0.1,
        longest_wait_s=1.0,
        slow_s=0.5,
        floor_bytes_s=20_000,
        owner_s=1.0,
        beat_s=0.2,
    )


@pytest.fixture(scope="session")
def table() -> Iterator[Outcomes]:
    """Collects what became of every fault; written to the file TUNESMITH_FAULT_TABLE names, when there is one."""
    outcomes = Outcomes()
    yield outcomes
    if place := os.environ.get("TUNESMITH_FAULT_TABLE"):
        outcomes.write(Path(place))


@pytest.fixture
def download(hf_cache: Path, patience: Patience) -> Download:
    """A download into an empty cache."""
    return Download(hf_cache, patience, Heard())
