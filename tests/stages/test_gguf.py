"""A GGUF becomes a folder that holds the same model: numbers, text, settings; or it is refused with its sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gguf_files import rewritten, tiny_ggufs
from tests.rooms import in_environment
from tunesmith.artifacts import FileEntry, ModelSnapshot, ModelSource
from tunesmith.jobs import ConvertJob, DownloadJob
from tunesmith.runner import run
from tunesmith.store import Store, sha256

pytestmark = pytest.mark.env("train")

MODELS = [
    "llama:F32", "llama:Q4_0", "llama3:F16", "qwen2:Q8_0", "qwen3:BF16", "qwen3_moe:Q8_0", "qwen2_moe:F32",
    "gemma2:F32", "gemma2_large:Q8_0", "gemma3:F32", "gemma3_far:F32", "phi3:Q5_0",
]  # fmt: skip
COMPARE = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM
from tunesmith.stages.gguf import import_gguf
from tunesmith.stages.gguf_describe import describe
folder, found = Path(sys.argv[1]), {}
ids = torch.arange(3, 203).reshape(1, 200)
def logits(path):
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(ids).logits, model.num_parameters()
for name in sys.argv[2:]:
    file = folder / f"{name}.gguf"
    out = import_gguf(file, folder / f"{name}-made")
    (before, number), (after, count) = logits(folder / name), logits(out)
    said, config = describe(file, name), json.loads((out / "config.json").read_text())
    differ = {key for key in said.keys() | config.keys() if said.get(key) != config.get(key)}
    found[name] = [torch.equal(before, after), number == count, sorted(differ - {"transformers_version"})]
print(json.dumps(found))
"""
REFUSE = """
import json, sys
from pathlib import Path
from tunesmith.errors import TunesmithError
from tunesmith.stages.gguf_describe import describe
def said(file):
    try:
        describe(file, "FILE")
    except TunesmithError as error:
        return type(error).__name__ + ": " + error.message
print(json.dumps([said(file) for file in sorted(Path(sys.argv[1]).glob("*.gguf"))]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_ggufs(tmp_path_factory.mktemp("gguf"), *MODELS)


def test_every_family_keeps_its_numbers_and_was_described_as_it_is(folder: Path) -> None:
    names = [model.replace(":", "-") for model in MODELS]
    found = in_environment("train", COMPARE, str(folder), *names)
    # How Llama 3 scales its positions follows from bytes that a description does not see.
    assert found.pop("llama3-F16") == [True, True, ["rope_parameters"]]
    assert found == {name: [True, True, []] for name in names if name != "llama3-F16"}


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("llama-F32", {"tokenizer.chat_template": None}, "NoChatTemplate: FILE carries no chat template: take the instr"),
    ("llama-F32", {"tokenizer.ggml.pre": "deepseek-llm"}, "splits text as deepseek-llm, which is not known here"),
    ("llama-F32", {"tokenizer.ggml.pre": None}, "FILE does not say how it splits text, so tokens would be wrong"),
    ("qwen2-Q8_0", {"tokenizer.ggml.pre": "llama-bpe"}, "is a qwen2 model with a tokenizer of another family"),
    ("llama-F32", {"tokenizer.ggml.model": "rwkv"}, "has no vocabulary that can be read (of kind rwkv)"),
    ("llama-F32", {"tokenizer.ggml.tokens": None}, "has no vocabulary that can be read"),
    (
        "llama-F32",
        {"general.architecture": "starfish", "starfish.block_count": 2},
        "UnknownArchitecture: FILE is a starfish model, which transformers 5.23.0 cannot read from a GGUF",
    ),
    (
        "llama-F32",
        {"general.architecture": "t5", "t5.block_count": 2},
        "UnknownArchitecture: FILE is a t5 model, which transformers",
    ),
    ("llama-F32", {"general.type": "adapter"}, "FILE holds no model but an adapter: name the model's own GGUF."),
    ("llama-F32", {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, "sets llama.rope.scaling.type"),
    ("llama-F32", {"llama.logit_scale": 0.5}, "FILE sets llama.logit_scale, which transformers 5.23.0 does not take over"),
    ("llama-F32", {"llama.rope.dimension_count": 8}, "FILE rotates 8 of the 16 numbers of a head, which transformers"),
    ("llama-F32", {"llama.feed_forward_length": 256}, "numbers for model.layers.0.mlp.gate_proj.weight, where its settings"),
    ("llama-F32", {"llama.block_count": 3}, "FILE lacks model.layers.2.input_layernorm.weight: fetch the file again"),
    ("llama-F32", {"llama.block_count": 1}, "FILE holds blk.1.attn_q.weight, for which a llama model has no place"),
    ("llama-F32", {"llama.embedding_length": "wide"}, "ModelError: FILE is damaged, or cut off, or no model ("),
]  # fmt: skip


def test_what_would_come_out_wrong_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    for number, (name, settings, _) in enumerate(REFUSALS):
        rewritten(folder / f"{name}.gguf", tmp_path / f"{number:02}.gguf", settings)
    packed = rewritten(folder / "llama-Q4_0.gguf", tmp_path / "98.gguf", {})
    content = packed.read_bytes()
    kind = content.index(b"blk.0.attn_q.weight") + len("blk.0.attn_q.weight") + 4 + 16
    packed.write_bytes(content[:kind] + b"\x24" + content[kind + 1 :])
    said = in_environment("train", REFUSE, str(tmp_path))
    for sentence, message in zip(
        [row[2] for row in REFUSALS] + ["FILE is packed as kind 36, which cannot be unpacked here"], said, strict=True
    ):
        assert message and sentence in message
        assert "\n" not in message


def test_a_rope_that_no_llama_3_has_is_refused_when_it_is_read(folder: Path, tmp_path: Path) -> None:
    file = rewritten(folder / "llama3-F16.gguf", tmp_path / "own.gguf", {"llama.rope.freq_base": 10000.0})
    script = "import sys; from pathlib import Path; from tunesmith.stages.gguf import import_gguf; import_gguf(*map(Path, sys.argv[1:]))"
    with pytest.raises(
        AssertionError, match=r"own\.gguf scales its positions in a way of its own \(rope_freqs\.weight\)"
    ):
        in_environment("train", script, str(file), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_convert_stage_makes_an_ordinary_snapshot_of_a_download(store: Store, folder: Path) -> None:
    file = folder / "qwen2-Q8_0.gguf"
    entry = FileEntry(path=file.name, size=file.stat().st_size, sha256=sha256(file))
    source = ModelSource(repo="local/tiny", commit="0" * 40, files=(entry,), path=str(folder), config={})
    download = run(DownloadJob(source=source), store).artifact
    assert isinstance(download, ModelSnapshot)
    made = run(ConvertJob(base=download), store)
    assert isinstance(made.artifact, ModelSnapshot) and made.artifact.fingerprint != download.fingerprint
    names = {path.name for path in store.out(made.artifact).iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert not [name for name in names if name.endswith(".gguf")]
    assert json.loads((store.out(made.artifact) / "config.json").read_text())["model_type"] == "qwen2"
    assert run(ConvertJob(base=download), store).cached
