"""Fixtures shared by the tests of several stages."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.models import import_smollm2, smollm2_gguf
from tests.fakes.run_flow import LAUNCHER
from tunesmith import jobs
from tunesmith.environments import CHECKOUT, health, interpreter
from tunesmith.store import Store


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs a stage environment that is not built is skipped with the reason."""
    for marker in item.iter_markers("env"):
        if reason := health(marker.args[0] if marker.args else "train"):
            pytest.skip(reason)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").open()


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    """A server of its own for each file: never one inside another, since the end of one waits for what both began."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The small real model of the demonstration; made once per checkout, which takes a minute."""
    return import_smollm2()


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """The same as the GGUF it is made from; fetched once per checkout."""
    return smollm2_gguf()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with tied embeddings, its tokenizer and its chat template."""
    return _tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a head of its own."""
    return _tiny_model(tmp_path_factory.mktemp("untied"), "--untied")


@pytest.fixture(scope="session")
def tiny_mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Qwen3-MoE with a chat template."""
    return _tiny_model(tmp_path_factory.mktemp("mixture"), "--untied", "--experts")


def _tiny_model(folder: Path, *flags: str) -> Path:
    command = [str(interpreter("train")), "tests/tiny_model.py", str(folder), *flags]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    return folder


@pytest.fixture
def hf_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, for this process (which read the variable at import) and for the stages it runs."""
    cache = tmp_path / "hf-cache"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return cache


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fake far side in place of every stage; write into this file what it should do."""
    for name, row in jobs.STAGES.items():
        monkeypatch.setitem(jobs.STAGES, name, row._replace(environment="main", launcher=LAUNCHER))
    path = tmp_path / "orders.json"
    path.write_text("{}")
    monkeypatch.setenv("TUNESMITH_FAKE", str(path))
    return path
