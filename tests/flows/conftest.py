"""A recipe on a folder of nearly nothing, the real Prefect, the real runner, and a far side that does no work."""

from pathlib import Path

import pytest

from tests.recipes import tiny_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that needs no hub."""
    return tiny_recipe(tmp_path)
