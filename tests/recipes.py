"""A recipe on a folder of nearly nothing: no hub, no weights to speak of."""

import json
import struct
from pathlib import Path
from typing import Any

import yaml

from tests.rooms import chat

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


def tiny_recipe(folder: Path) -> Path:
    """`folder/tiny.yaml`, with its model and its rows beside it."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (model / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    for name in ("train", "heldout"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(chat(f"{name} {n}", "a")) + "\n" for n in range(4)))
    tree: dict[str, Any] = {
        "name": "tiny",
        "model": {"path": "model"},
        "data": {"train": "train.jsonl", "evaluation": "heldout.jsonl"},
        "train": {"method": "lora", "epochs": 1, "batch_size": 4, "max_length": 64},
        "quantize": {"method": "gptq", "group_size": 64},
        "evaluate": {"gate": {"min_score": 0.9}},
        "hardware": {"device": "cpu"},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path
