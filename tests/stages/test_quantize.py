"""GPTQ of the tiny model: what comes out, that it still knows what it knew, and that both readers of it agree."""

import json
import shutil
import struct
from math import log
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.rooms import finished_dataset, finished_snapshot, in_environment
from tests.stages.conftest import Heard, one_thread
from tests.stages.taught import by_heart, finished_model
from tunesmith.artifacts import MergedModel, QuantizedModel, Score
from tunesmith.errors import GroupSizeError
from tunesmith.jobs import GptqJob, ScoreJob
from tunesmith.runner import Outcome, run
from tunesmith.specs.evaluate import EvaluateSpec
from tunesmith.specs.quantize import Calibration, Gptq
from tunesmith.store import Manifest, Store

pytestmark = pytest.mark.env

BOTH_READERS = """
import json, os, sys
from pathlib import Path
os.environ["GPTQMODEL_CPU_WORKERS"] = "2"
import torch
from gptqmodel import BACKEND, GPTQModel
from transformers import AutoModelForCausalLM
from tunesmith.artifacts import QuantizedModel
from tunesmith.stages.evaluate.candidates import load_candidate
from tunesmith.store import Store
merged, artifact = Path(sys.argv[2]), QuantizedModel.model_validate_json(sys.argv[3])
store = Store(Path(sys.argv[1]))
tokens = torch.arange(60).view(2, 30) + 3
with torch.no_grad():
    packed = GPTQModel.load(str(store.out(artifact)), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16).model
    plain = load_candidate(artifact, store, "cpu")
    layers = {name: module for name, module in packed.named_modules() if hasattr(module, "dequantize_weight")}
    differing = [
        name for name, module in layers.items()
        if not torch.equal(module.dequantize_weight().T.half(), plain.get_submodule(name).weight.half())
    ]
    theirs, ours = packed(tokens).logits.float(), plain(tokens).logits
    before = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()(tokens).logits
print(json.dumps({
    "layers": len(layers),
    "differing": differing,
    "ours_theirs": (ours - theirs).abs().max().item(),
    "ours_before": (ours - before).abs().max().item(),
}))
"""


class Quantized(NamedTuple):
    store: Store
    job: GptqJob
    outcome: Outcome
    heard: Heard

    @property
    def out(self) -> Path:
        return self.store.out(self.outcome.artifact)

    @property
    def manifest(self) -> Manifest:
        manifest = self.store.manifest(self.outcome.room)
        assert manifest
        return manifest


def gptq_job(store: Store, model: Path, base: Path, group_size: int = 32) -> GptqJob:
    merged = MergedModel(fingerprint="b" * 16, base=finished_snapshot(store, base))
    return GptqJob(
        spec=Gptq(group_size=group_size, calibration=Calibration(rows=8, max_length=100)),
        model=finished_model(store, model, merged),
        data=finished_dataset(store, by_heart(), by_heart()),
        device="cpu",
    )


@pytest.fixture(scope="module")
def quantized(taught_model: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """Run in a room where an attempt that was killed while saving has left its files."""
    store = Store(tmp_path_factory.mktemp("quantize")).open()
    job, heard = gptq_job(store, taught_model, tiny_model), Heard()
    left_behind = store.room(job.room_name) / "out" / "model-00001-of-00002.safetensors"
    left_behind.parent.mkdir(parents=True)
    left_behind.write_bytes(b"half of it")
    with one_thread():
        return Quantized(store, job, run(job, store, heard), heard)


def types_of_tensors(path: Path) -> dict[str, str]:
    """Name and type of every tensor in a safetensors file, from its header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"}


def test_the_output_is_one_whole_gptq_model(quantized: Quantized) -> None:
    said = json.loads((quantized.out / "config.json").read_text())["quantization_config"]
    assert (said["quant_method"], said["bits"], said["group_size"], said["desc_act"]) == ("gptq", 4, 32, False)
    assert quantized.outcome.artifact == QuantizedModel(
        fingerprint=quantized.job.fingerprint, method="gptq", base=quantized.job.model.base
    )
    assert [path.name for path in quantized.out.glob("*.safetensors")] == ["model.safetensors"]
    types = types_of_tensors(quantized.out / "model.safetensors")
    packed = [name for name in types if name.endswith(".qweight")]
    assert len(packed) == 14 and "F32" not in types.values()
    assert types["model.embed_tokens.weight"] == "BF16"


def test_what_belongs_to_the_model_travels_along(quantized: Quantized) -> None:
    merged = quantized.store.out(quantized.job.model)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (quantized.out / name).read_bytes() == (merged / name).read_bytes()


def test_the_manifest_says_what_it_cost(quantized: Quantized) -> None:
    metrics = quantized.manifest.metrics
    merged = quantized.store.out(quantized.job.model) / "model.safetensors"
    assert metrics["weight_bytes"] == (quantized.out / "model.safetensors").stat().st_size
    assert metrics["ratio_to_merged"] == pytest.approx(metrics["weight_bytes"] / merged.stat().st_size)
    assert 0 < metrics["mean_loss"] < 1 and metrics["layers_rounded"] == 0
    assert metrics["calibration_tokens"] > 8 * 20


def test_layers_are_reported_and_the_log_stays_readable(quantized: Quantized) -> None:
    progress = [(event["done"], event["total"], event["unit"]) for event in quantized.heard.of("progress")]
    assert progress == [(1, 2, "layer"), (2, 2, "layer")]
    assert len(quantized.heard.lines) < 40
    assert not any("\x1b" in line or "\r" in line for line in quantized.heard.lines)


def test_unpacked_once_it_is_what_the_packed_kernel_computes(quantized: Quantized) -> None:
    """gptqmodel's kernel computes in 16 bits: its weights are ours rounded, its answers ours but for rounding."""
    merged = quantized.store.out(quantized.job.model)
    artifact = quantized.outcome.artifact.model_dump_json()
    with one_thread():
        seen = in_environment("train", BOTH_READERS, str(quantized.store.root), str(merged), artifact)
    assert seen["layers"] == 14 and seen["differing"] == []
    assert seen["ours_theirs"] < 0.1 * seen["ours_before"]


def score(quantized: Quantized, **model: Any) -> Score:
    job = ScoreJob(spec=EvaluateSpec(max_new_tokens=40), max_length=200, data=quantized.job.data, device="cpu", **model)
    with one_thread():
        artifact = run(job, quantized.store).artifact
    assert isinstance(artifact, Score)
    return artifact


def test_it_still_knows_what_it_knew(quantized: Quantized) -> None:
    """Against the merged model, and one that takes each of the 512 tokens for equally likely."""
    before, after = score(quantized, model=quantized.job.model), score(quantized, model=quantized.outcome.artifact)
    assert before.nll is not None and after.nll is not None
    assert before.nll < after.nll < before.nll + 0.2 * (log(512) - before.nll)


def test_a_group_that_does_not_fit_is_refused_before_any_weight_is_read(
    tiny_model: Path, store: Store, tmp_path: Path
) -> None:
    without_weights = tmp_path / "merged"
    shutil.copytree(tiny_model, without_weights, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(GroupSizeError, match="group_size 128 does not divide") as refused:
        run(gptq_job(store, without_weights, tiny_model, group_size=128), store)
    assert refused.value.message.endswith("choose 32 or 64.")
