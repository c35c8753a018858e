"""A GGUF is billed as the folder that is made of it, and its making on top; held to the making of a real one."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.memory.cases import QWEN_7B, SMOLLM2, cpu, gpu, recipe
from tunesmith.artifacts import FileEntry, Hardware, ModelSnapshot, ModelSource, Plan
from tunesmith.errors import DoesNotFit
from tunesmith.forecast import estimate
from tunesmith.jobs import ConvertJob, DownloadJob
from tunesmith.memory.constants import GIB
from tunesmith.memory.plan import make_plan
from tunesmith.memory.shape import ModelShape
from tunesmith.question import Machine, Question, described_source, folder_source, pose
from tunesmith.runner import run
from tunesmith.store import Store

MIXTURE: dict[str, Any] = {
    **SMOLLM2, "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512,
    "decoder_sparse_step": 1, "head_dim": 64,
}  # fmt: skip
QUANTIZE = {"method": "gptq", "group_size": 64}


def source(config: dict[str, Any], name: str, size: int) -> ModelSource:
    return ModelSource(repo="a/b", commit="0" * 40, files=(FileEntry(path=name, size=size),), config=config)


def pair(config: dict[str, Any], packed_bytes: int) -> tuple[ModelSource, ModelSource]:
    """A GGUF, and the one file of safetensors that holds as many numbers in 16 bits."""
    whole = 2 * ModelShape.from_config(config).params
    return source(config, "model-q4.gguf", packed_bytes), source(config, "model.safetensors", whole)


def billed(plan: Plan, convert: bool = False) -> dict[tuple[str, str, str], int]:
    return {(i.phase, i.item, i.place): i.bytes for i in plan.bill if (i.phase == "convert") == convert}


@pytest.mark.parametrize("machine", [cpu(), gpu(24)], ids=["cpu", "gpu"])
@pytest.mark.parametrize("train", [{"method": "lora"}, {"method": "qlora"}, {"method": "full"}])
@pytest.mark.parametrize("config", [SMOLLM2, MIXTURE], ids=["dense", "mixture"])
def test_once_made_it_costs_what_the_folder_costs(machine: Hardware, train: dict[str, Any], config: Any) -> None:
    packed, whole = pair(config, 98_000_000)
    case = recipe({**train, "micro_batch_size": 1}, QUANTIZE)
    made, plain = (make_plan(case, one, machine) for one in (packed, whole))
    assert billed(made) == billed(plain) and made.peak_bytes == plain.peak_bytes
    assert made.step == plain.step and made.summary == plain.summary
    assert made.disk == {**plain.disk, "download": 98_000_000 + plain.disk["download"]}


@pytest.mark.parametrize(("machine", "place"), [(cpu(), "device"), (gpu(24), "host")])
def test_its_making_is_a_phase_of_its_own_in_host_memory(machine: Hardware, place: str) -> None:
    packed, whole = pair(SMOLLM2, 98_000_000)
    made, plain = (make_plan(recipe({"method": "lora"}, QUANTIZE), one, machine) for one in (packed, whole))
    items = billed(made, convert=True)
    assert {found for _, _, found in items} == {place} and not billed(plain, convert=True)
    assert items["convert", "GGUF file, mapped", place] == 98_000_000
    assert items["convert", "weights (bf16)", place] == 2 * ModelShape.from_config(SMOLLM2).params


def test_a_machine_that_could_train_it_but_not_make_it_is_told_so() -> None:
    machine, case = gpu(24, ram_gib=20), recipe({"method": "qlora"})
    packed, whole = pair(QWEN_7B, int(4.4 * GIB))
    make_plan(case, whole, machine)
    with pytest.raises(DoesNotFit, match="convert"):
        make_plan(case, packed, machine)


@pytest.mark.env("train")
def test_a_real_one_costs_what_is_billed(store: Store, smollm2_file: Path) -> None:
    question = pose(str(smollm2_file), {}, Machine())
    (entry,) = question.source.files
    source = question.source.model_copy(update={"path": str(smollm2_file.parent), "files": (entry,)})
    base = run(DownloadJob(source=source), store).artifact
    assert isinstance(base, ModelSnapshot)
    made = run(ConvertJob(base=base), store)
    out = store.out(made.artifact)

    config = json.loads((out / "config.json").read_text())
    assert question.source.config == {key: config[key] for key in config if key != "transformers_version"}
    folder = folder_source(out)
    for machine in (cpu(), gpu(24)):
        ours, theirs = (estimate(question._replace(source=one, machine=machine)).plan for one in (source, folder))
        assert ModelShape.from_config(source.config).params == 134_515_008
        assert billed(ours).keys() == billed(theirs).keys()
        # A file of safetensors begins with its table: 0.01 % of it.
        different = {key for key, size in billed(theirs).items() if size != billed(ours)[key]}
        assert {item.removesuffix(", mapped") for _, item, _ in different} <= {"largest weight file"}
        assert all(billed(ours)[key] == pytest.approx(billed(theirs)[key], rel=2e-4) for key in different)

    manifest = store.manifest(made.room)
    assert manifest
    making = sum(billed(estimate(Question(question.recipe, source, cpu())).plan, convert=True).values())
    assert 0.6 * making < manifest.peak_bytes_seen < making
    assert described_source(question.recipe) == question.source
