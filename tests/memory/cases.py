"""Recipes, models and machines for the tests of the bill and the plan."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.artifacts import Device, FileEntry, Hardware, ModelSource
from tunesmith.memory.constants import GIB
from tunesmith.specs.recipe import Recipe

QWEN_7B: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data/qwen2.5-7b/config.json").read_text())
SMOLLM2: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def source(config: Mapping[str, Any], repo: str = "Qwen/Qwen2.5-7B-Instruct", gib: float = 14.2) -> ModelSource:
    """A repo of four weight files."""
    size = int(gib * GIB / 4)
    files = tuple(FileEntry(path=f"model-{number}.safetensors", size=size) for number in range(4))
    return ModelSource(repo=repo, commit="0" * 40, files=files, config=dict(config))


def recipe(
    train: Mapping[str, Any] | None = None,
    quantize: Mapping[str, Any] | None = None,
    hardware: Mapping[str, Any] | None = None,
) -> Recipe:
    """QLoRA r=64, effective batch 16, 1024 tokens, GPTQ int4, and what is given instead."""
    common = {"epochs": 1, "batch_size": 16, "max_length": 1024}
    adapter = {} if (train or {}).get("method") == "full" else {"method": "qlora", "rank": 64}
    return Recipe.model_validate(
        {
            "name": "case",
            "model": {"repo": "Qwen/Qwen2.5-7B-Instruct"},
            "data": {"train": "train.jsonl", "evaluation": "heldout.jsonl"},
            "train": {**common, **adapter, **(train or {})},
            "quantize": quantize or {"method": "gptq", "group_size": 128},
            "hardware": hardware or {},
        }
    )


def gpu(gib: float, count: int = 1, ram_gib: float = 128) -> Hardware:
    device = Device(name="test card", memory_bytes=int(gib * GIB))
    return Hardware(device="cuda", devices=(device,) * count, ram_bytes=int(ram_gib * GIB), cores=8)


def cpu(gib: float = 23.5) -> Hardware:
    device = Device(name="host memory", memory_bytes=int(gib * GIB))
    return Hardware(device="cpu", devices=(device,), ram_bytes=int(gib * GIB), cores=2)
