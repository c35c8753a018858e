"""A recipe on a folder of nearly nothing, the real Prefect, the real runner, and a far side that does no work."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.testing.utilities import prefect_test_harness

from tests.recipes import tiny_recipe


@pytest.fixture(scope="session")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that needs no hub."""
    return tiny_recipe(tmp_path)
