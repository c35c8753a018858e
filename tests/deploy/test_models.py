"""The demonstration's models: what the loopback hub tells of them, and the import of a GGUF."""

import json
import subprocess
from pathlib import Path

import pytest

from deploy.demo import loopback_hub, questions
from deploy.models import QWEN, SMOLLM2, mirror_qwen7b
from tunesmith.environments import CHECKOUT, interpreter
from tunesmith.hub.listing import resolve_model
from tunesmith.specs.model import ModelSpec


def test_the_mirror_tells_sizes_and_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = mirror_qwen7b(tmp_path / "hub")
    assert not [*folder.glob("*.safetensors")]
    with loopback_hub(tmp_path / "hub") as address:
        model = resolve_model(ModelSpec(repo=QWEN, hub=address), tmp_path)
        again = resolve_model(ModelSpec(repo=QWEN, hub=address), tmp_path)
    assert model.config["hidden_size"] == 3584
    assert sum(entry.size for entry in model.files if entry.path.endswith(".safetensors")) == 15_231_271_888
    assert again.commit == model.commit


def test_three_different_held_out_questions_are_asked():
    training = (CHECKOUT / "configs" / "orders" / "train.jsonl").read_text()
    asked = questions(3)
    assert len(set(asked)) == 3
    assert not [question for question in asked if json.dumps(question) in training]


@pytest.mark.env
def test_the_imported_model_has_weights_template_and_single_digits(smollm2_folder: Path):
    code = (
        "import sys, json; from transformers import AutoTokenizer; from safetensors import safe_open;"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1]);"
        "weights = safe_open(sys.argv[1] + '/model.safetensors', 'pt');"
        "kinds = {str(weights.get_slice(key).get_dtype()) for key in weights.keys()};"
        "text = tokenizer.apply_chat_template([{'role': 'user', 'content': 'hi'}], tokenize=False);"
        "print(json.dumps([sorted(kinds), text, len(tokenizer('2026')['input_ids'])]))"
    )
    kinds, text, digits = json.loads(_train("-c", code, str(smollm2_folder)).stdout.splitlines()[-1])
    assert kinds == ["BF16"]
    assert text.endswith("<|im_start|>user\nhi<|im_end|>\n")
    assert digits == 4
    assert smollm2_folder.parts[-2:] == tuple(SMOLLM2.split("/"))


@pytest.mark.env
def test_what_is_no_gguf_is_refused_with_a_sentence(tmp_path: Path):
    (tmp_path / "model.gguf").write_bytes(b"not one")
    done = _train("-m", "tunesmith.stages.gguf", str(tmp_path / "model.gguf"), str(tmp_path / "out"))
    assert done.returncode == 78
    assert "is no GGUF that can be read (its first bytes are not GGUF)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def _train(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([interpreter("train"), *words], cwd=CHECKOUT, capture_output=True, text=True)
