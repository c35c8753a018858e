"""A cold cache filled from another site is an ordinary one: transformers loads from it with the network forbidden."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loopback import loopback_hub
from tunesmith.environments import CHECKOUT, interpreter
from tunesmith.hub.transfer.engine import fetch
from tunesmith.hub.transfer.source import Source
from tunesmith.hub.transfer.sources.folder import Folder
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.hub.transfer.sources.modelscope import ModelScope

pytestmark = pytest.mark.env

LOAD = """
import json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("acme/tiny", dtype=torch.float32)
tokens = AutoTokenizer.from_pretrained("acme/tiny")("three lamps", return_tensors="pt")
with torch.no_grad():
    print(json.dumps(model(**tokens).logits[0, -1, :8].tolist()))
"""


@pytest.fixture(scope="module")
def shelf(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub's folder with the tiny model."""
    root = tmp_path_factory.mktemp("hub")
    shutil.copytree(tiny_model, root / "acme/tiny")
    return root


@pytest.fixture(scope="module")
def site(shelf: Path) -> Iterator[str]:
    with loopback_hub(shelf) as address:
        yield address


def loaded(cache: Path) -> Any:
    """The last logits of a prompt, from a process that may not ask any hub."""
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(interpreter("train")), "-c", LOAD], cwd=CHECKOUT, env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_from_modelscope_and_a_folder_as_from_a_hub(site: str, shelf: Path, tmp_path: Path) -> None:
    sources: dict[str, Source] = {"hf": HuggingFace(site), "modelscope": ModelScope(site), "folder": Folder(shelf)}
    for name, source in sources.items():
        fetch([source], "acme/tiny", cache=tmp_path / name)
    found = {name: loaded(tmp_path / name) for name in sources}
    assert found["hf"] == found["modelscope"] == found["folder"]
