"""Merging on the tiny model: the same numbers as PEFT, everything that travels along, and what is refused."""

import json
import shutil
from typing import Any

import pytest

from tests.rooms import in_environment
from tests.stages.conftest import Heard, Trained, one_thread
from tunesmith.artifacts import MergedModel, TunedModel
from tunesmith.jobs import MergeJob
from tunesmith.runner import Outcome, run

pytestmark = pytest.mark.env

COMPARE = """
import json, sys
from pathlib import Path
import torch
from tunesmith.stages import lean
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
base, adapter, merged = map(Path, sys.argv[1:4])
torch.manual_seed(0)
tokens = torch.randint(3, 300, (2, 24))

def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

def logits(model):
    with torch.no_grad():
        return model(tokens).logits

tuned = PeftModel.from_pretrained(load(base), adapter).eval()
as_trained = logits(tuned)
theirs = tuned.merge_and_unload().state_dict()
ours, before = load_file(merged / "model.safetensors"), load_file(base / "model.safetensors")
print(json.dumps({
    "names": sorted(ours) == sorted(before),
    "bit_equal": all(torch.equal(ours[name], theirs[name].to(torch.bfloat16)) for name in ours),
    "changed": sorted(name for name in ours if not torch.equal(ours[name], before[name])),
    "dtypes": sorted({str(tensor.dtype) for tensor in ours.values()}),
    "from_adapter": (logits(load(merged)) - as_trained).abs().max().item(),
    "from_base": (logits(load(base)) - as_trained).abs().max().item(),
}))
"""

VARIANTS = """
import json, shutil, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from tunesmith.stages import lean
from transformers import AutoModelForCausalLM
from tunesmith.errors import TunesmithError
from tunesmith.jobs import MergeJob
from tunesmith.stages.merge.streaming import merge
from tunesmith.store import Store
from tunesmith.worker import Room

original = Path(sys.argv[1])
job = MergeJob.model_validate_json(sys.argv[2])
full = MergeJob.model_validate_json(sys.argv[3])

class Copy:
    def __init__(self, name, job=job):
        self.job, self.store = job, Store(original.parent / name)
        shutil.copytree(original, self.store.root)
        self.base, self.adapter = self.store.out(job.tuned.base), self.store.out(job.tuned)
        self.weights, self.matrices = self.base / "model.safetensors", self.adapter / "adapter_model.safetensors"

    def settings(self, folder, file, **changes):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def tensors(self, path, change):
        found = load_file(path)
        change(found)
        save_file(found, path, {"format": "pt"})

    def merge(self):
        room = Room(self.store.room("merge-test"), self.store)
        room.path.mkdir()
        try:
            made = merge(self.job, room)
        except TunesmithError as error:
            return {"error": type(error).__name__, "message": error.message}
        dtypes = {str(w.dtype) for path in room.out.glob("*.safetensors") for w in load_file(path).values()}
        return {
            "dtypes": sorted(dtypes),
            "config": json.loads((room.out / "config.json").read_text()),
            "files": sorted(path.name for path in room.out.iterdir()),
            "metrics": made.metrics,
        }

def weights(store):
    return AutoModelForCausalLM.from_pretrained(store.room("merge-test") / "out", dtype=torch.float32).state_dict()

def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)

A = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")
results = {}

def variant(name, change, job=job):
    copy = Copy(name, job)
    change(copy)
    results[name] = copy.merge()
    return copy.store

def convert(dtype):
    return lambda copy: copy.tensors(copy.weights, lambda w: w.update({n: t.to(dtype) for n, t in w.items()}))

def shard(copy):
    model = AutoModelForCausalLM.from_pretrained(copy.base, dtype=torch.bfloat16)
    copy.weights.unlink()
    model.save_pretrained(copy.base, max_shard_size="60KB")

def one_wide(copy):
    copy.tensors(copy.weights, lambda w: w.update({"model.norm.weight": w["model.norm.weight"].float()}))

single = variant("single", lambda copy: None)
results["shards_equal"] = same(weights(single), weights(variant("sharded", shard)))
variant("fp32", convert(torch.float32))
variant("fp16", convert(torch.float16))
variant("one_wide", one_wide)
variant("rslora", lambda copy: copy.settings(copy.adapter, "adapter_config.json", use_rslora=True, lora_alpha=16))
results["rslora_equal"] = same(weights(single), weights(Store(original.parent / "rslora")))
tuned = variant("full", lambda copy: None, full)
source = load_file(tuned.out(full.tuned) / "model.safetensors")
results["full_equal"] = all(torch.equal(t.to(torch.bfloat16).float(), weights(tuned)[n]) for n, t in source.items())

variant("dora", lambda copy: copy.settings(copy.adapter, "adapter_config.json", use_dora=True))
variant("saved", lambda copy: copy.settings(copy.adapter, "adapter_config.json", modules_to_save=["lm_head"]))
variant("fan", lambda copy: copy.settings(copy.adapter, "adapter_config.json", fan_in_fan_out=True))
variant("ia3", lambda copy: copy.settings(copy.adapter, "adapter_config.json", peft_type="IA3"))
variant("no_b", lambda copy: copy.tensors(copy.matrices, lambda w: w.pop(B)))
variant("no_a", lambda copy: copy.tensors(copy.matrices, lambda w: w.pop(A)))
variant("shape", lambda copy: copy.tensors(copy.matrices, lambda w: w.update({B: w[B][:-1].clone()})))
variant("rank", lambda copy: copy.settings(copy.adapter, "adapter_config.json", r=8))
variant("elsewhere", lambda copy: copy.tensors(copy.matrices, lambda w: w.update(
    {A.replace("layers.0", "layers.9"): w[A].clone(), B.replace("layers.0", "layers.9"): w[B].clone()})))
variant("nan", lambda copy: copy.tensors(copy.matrices, lambda w: w[B].fill_(float("nan"))))
variant("quantized", lambda copy: copy.settings(copy.base, "config.json", quantization_config={"quant_method": "fp8"}))
variant("fp8", convert(torch.float8_e4m3fn))
variant("integers", convert(torch.int8))
variant("no_weights", lambda copy: copy.weights.unlink())
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def merged(trained: Trained) -> Outcome:
    heard = Heard()
    with one_thread():
        outcome = run(MergeJob(tuned=trained.outcome.artifact), trained.store, heard)
    assert heard.of("progress")[-1]["done"] == heard.of("progress")[-1]["total"] == 20
    return outcome


def test_merged_weights_are_peft_s_to_the_bit(trained: Trained, merged: Outcome) -> None:
    """Against merge_and_unload on the base loaded in float32, its result rounded to bfloat16 as it would be saved."""
    rooms = (trained.job.base, trained.outcome.artifact, merged.artifact)
    with one_thread():
        seen = in_environment("train", COMPARE, *(str(trained.store.out(room)) for room in rooms))
    assert seen["names"] and seen["bit_equal"]
    assert len(seen["changed"]) == 14 and all("_proj" in name for name in seen["changed"])
    assert seen["dtypes"] == ["torch.bfloat16"]
    # Rounding to 8 bits of mantissa is all that may lie between the two models.
    assert seen["from_adapter"] < 0.05 * seen["from_base"]


def test_everything_else_of_the_base_travels_along(trained: Trained, merged: Outcome) -> None:
    base, out = trained.store.out(trained.job.base), trained.store.out(merged.artifact)
    assert isinstance(merged.artifact, MergedModel)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    assert {path.name for path in out.iterdir()} == {path.name for path in base.iterdir()}
    assert json.loads((out / "config.json").read_text()) == json.loads((base / "config.json").read_text())


@pytest.fixture(scope="module")
def results(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Merges of the same adapter and base after a change to either, all in one process."""
    root = tmp_path_factory.mktemp("variants")
    tuned = TunedModel(fingerprint="f" * 16, base=trained.job.base)
    shutil.copytree(trained.store.root, root / "store")
    room = root / "store" / f"train-{tuned.fingerprint}" / "out"
    room.mkdir(parents=True)
    script = WIDEN.format(source=trained.store.out(trained.job.base), target=room)
    jobs = (MergeJob(tuned=trained.outcome.artifact), MergeJob(tuned=tuned))
    with one_thread():
        found = in_environment(
            "train", script + VARIANTS, str(root / "store"), *(job.model_dump_json() for job in jobs)
        )
    assert isinstance(found, dict)
    return found


# All weights of the base, in float32 and moved a little: what full fine-tuning leaves behind.
WIDEN = """
from safetensors.torch import load_file, save_file
moved = {{name: weight.float() * 1.001 for name, weight in load_file("{source}/model.safetensors").items()}}
save_file(moved, "{target}/model.safetensors", {{"format": "pt"}})
"""


def test_a_base_in_several_files_merges_to_the_same(results: dict[str, Any]) -> None:
    assert results["shards_equal"]
    assert "model.safetensors.index.json" in results["sharded"]["files"]
    assert results["sharded"]["metrics"]["weight_bytes"] == results["single"]["metrics"]["weight_bytes"]


def test_a_32_bit_base_becomes_bfloat16_and_says_so(results: dict[str, Any]) -> None:
    assert results["fp32"]["dtypes"] == ["torch.bfloat16"] and results["fp32"]["config"]["dtype"] == "bfloat16"


def test_a_16_bit_base_keeps_its_type(results: dict[str, Any]) -> None:
    assert results["fp16"]["dtypes"] == ["torch.float16"] and results["fp16"]["config"]["dtype"] == "float16"


def test_a_tensor_kept_in_32_bits_on_purpose_stays_so(results: dict[str, Any]) -> None:
    assert results["one_wide"]["dtypes"] == ["torch.bfloat16", "torch.float32"]


def test_a_rank_stabilized_adapter_is_scaled_by_the_root_of_its_rank(results: dict[str, Any]) -> None:
    """alpha 32 / 4 and alpha 16 / sqrt(4) are the same scale."""
    assert results["rslora_equal"]


def test_a_fully_tuned_model_is_rounded_once(results: dict[str, Any]) -> None:
    assert results["full_equal"] and results["full"]["dtypes"] == ["torch.bfloat16"]
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json"} <= set(results["full"]["files"])


A = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
PLAIN = "cannot be merged here: train a plain LoRA or QLoRA adapter."
AGAIN = ": train it again on this base."


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("dora", "ModelError", f"An adapter with use_dora {PLAIN}"),
        ("saved", "ModelError", f"An adapter with modules_to_save {PLAIN}"),
        ("fan", "ModelError", f"An adapter with fan_in_fan_out {PLAIN}"),
        ("ia3", "ModelError", f"An adapter of type IA3 {PLAIN}"),
        ("no_b", "CorruptArtifact", f"The adapter's {A} has no lora_B beside it{AGAIN}"),
        (
            "no_a",
            "CorruptArtifact",
            f"The adapter's {A.replace('lora_A', 'lora_B')} belongs to no pair of lora_A and lora_B{AGAIN}",
        ),
        (
            "shape",
            "CorruptArtifact",
            f"The adapter's {A} and its lora_B, (4, 64) and (127, 4), "
            f"do not fit the base's weight (128, 64) at rank 4{AGAIN}",
        ),
        (
            "elsewhere",
            "CorruptArtifact",
            f"The adapter's {A.replace('layers.0', 'layers.9')} has no weight in the base to change{AGAIN}",
        ),
        (
            "nan",
            "ModelError",
            "model.layers.0.mlp.up_proj.weight is no longer finite once merged: "
            "lower train.learning_rate and train again.",
        ),
        ("quantized", "ModelError", "The base model is quantized (fp8): start from its 16-bit weights."),
        (
            "no_weights",
            "ModelError",
            "There is neither model.safetensors nor model.safetensors.index.json in the model's folder: "
            "choose a safetensors model.",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(results: dict[str, Any], name: str, error: str, message: str) -> None:
    assert results[name] == {"error": error, "message": message}


def test_a_rank_that_is_not_the_adapter_s_is_refused(results: dict[str, Any]) -> None:
    assert results["rank"]["error"] == "CorruptArtifact" and "at rank 8" in results["rank"]["message"]


@pytest.mark.parametrize("name", ["fp8", "integers"])
def test_low_bit_weights_are_never_merged_into(results: dict[str, Any], name: str) -> None:
    assert results[name]["error"] == "ModelError"
    assert results[name]["message"].endswith(": start from the model's 16-bit weights.")
