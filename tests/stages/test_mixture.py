"""A mixture of experts through training, merging and quantizing."""

import json
import struct
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hearing import Heard
from tests.rooms import counting_rows, finished_dataset
from tests.stages.conftest import one_thread, train_job
from tunesmith.artifacts import MergedModel
from tunesmith.jobs import GptqJob, MergeJob
from tunesmith.memory.phases import served_bytes
from tunesmith.memory.shape import ModelShape
from tunesmith.runner import run
from tunesmith.specs.quantize import Calibration, Gptq
from tunesmith.specs.train import Lora
from tunesmith.store import Store

pytestmark = pytest.mark.env

GPTQ = Gptq(group_size=32, calibration=Calibration(rows=8, max_length=100))


class Results(NamedTuple):
    base: Path
    adapter: Path
    merged: Path
    quantized: Path


@pytest.fixture(scope="module")
def results(tiny_mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    store = Store(tmp_path_factory.mktemp("mixture-store")).open()
    spec = Lora(rank=4, max_steps=4, batch_size=4, learning_rate=1e-2)
    with one_thread():
        tuned = run(train_job(store, tiny_mixture, spec), store, Heard()).artifact
        merged = run(MergeJob(tuned=tuned), store, Heard()).artifact
        assert isinstance(merged, MergedModel)
        data = finished_dataset(store, counting_rows(30), counting_rows(3))
        quantized = run(GptqJob(spec=GPTQ, model=merged, data=data, device="cpu"), store, Heard()).artifact
    return Results(tiny_mixture, *(store.out(made) for made in (tuned, merged, quantized)))


def tensors(path: Path) -> dict[str, bytes]:
    """Every tensor of a safetensors file as its bytes, by name."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    header.pop("__metadata__", None)
    return {name: body[slice(*entry["data_offsets"])] for name, entry in header.items()}


def test_the_adapter_is_on_the_attention_alone(results: Results) -> None:
    names = tensors(results.adapter / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in names} == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_merging_changes_the_attention_alone(results: Results) -> None:
    before, after = (tensors(folder / "model.safetensors") for folder in (results.base, results.merged))
    assert before.keys() == after.keys()
    changed = {name.split(".")[-2] for name in before if before[name] != after[name]}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_the_quantizer_packs_experts_as_billed(results: Results) -> None:
    shape = ModelShape.from_config(json.loads((results.base / "config.json").read_text()))
    size = sum(map(len, tensors(results.quantized / "model.safetensors").values()))
    assert size == pytest.approx(served_bytes(shape, GPTQ), rel=0.05)
    assert served_bytes(shape, GPTQ) < 2 * shape.params - shape.expert_weights
