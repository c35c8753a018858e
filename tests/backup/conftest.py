"""A run's finished rooms, a hub that takes them, and a client library in a hurry."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import _commit_api, lfs
from huggingface_hub.utils import _http, _pagination

from tests.backup.runs import Past, past_run
from tests.hub.upload_hub import TOKEN, UploadHub
from tests.recipes import tiny_recipe
from tunesmith.store import Store


@pytest.fixture(autouse=True)
def no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token of this machine's, and a library that tries again at once."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    hasty: Callable[..., object] = functools.partial(_http.http_backoff, max_retries=1, base_wait_time=0.01)
    for module in (_commit_api, lfs, _pagination):
        monkeypatch.setattr(module, "http_backoff", hasty)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    with UploadHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.address)
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that needs no hub but the one it is backed up to."""
    return tiny_recipe(tmp_path)


@pytest.fixture
def past(store: Store, recipe: Path) -> Past:
    return past_run(store, recipe)
