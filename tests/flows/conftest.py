"""A recipe on a folder of nearly nothing, the real Prefect, the real runner, and a far side that does no work."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

from tests.fakes.run_flow import LAUNCHER
from tests.recipes import tiny_recipe
from tunesmith import jobs


@pytest.fixture(scope="session")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake far side in place of every stage; write into this file what it should do."""
    for name, row in jobs.STAGES.items():
        monkeypatch.setitem(jobs.STAGES, name, row._replace(environment="main", launcher=LAUNCHER))
    path = tmp_path / "orders.json"
    path.write_text("{}")
    monkeypatch.setenv("TUNESMITH_FAKE", str(path))
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that needs no hub."""
    return tiny_recipe(tmp_path)
