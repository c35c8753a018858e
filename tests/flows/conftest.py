"""A recipe on a folder of nearly nothing, the real Prefect, the real runner, and a far side that does no work."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.testing.utilities import prefect_test_harness

from tests.fakes.run_flow import LAUNCHER
from tests.rooms import chat
from tunesmith import jobs

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


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
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (model / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    for name in ("train", "heldout"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(chat(f"{name} {n}", "a")) + "\n" for n in range(4)))
    tree: dict[str, Any] = {
        "name": "tiny",
        "model": {"path": "model"},
        "data": {"train": "train.jsonl", "evaluation": "heldout.jsonl"},
        "train": {"method": "lora", "epochs": 1, "batch_size": 4, "max_length": 64},
        "quantize": {"method": "gptq", "group_size": 64},
        "evaluate": {"gate": {"min_score": 0.9}},
        "hardware": {"device": "cpu"},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path
