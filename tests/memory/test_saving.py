"""The bill of writing a checkpoint: what stays on the device, what passes through the host, and where it is shown."""

from itertools import pairwise
from typing import Any

import pytest
from rich.console import Console

from tests.memory.cases import QWEN_7B, SMOLLM2, cpu, gpu, recipe, source
from tunesmith.memory import catalogue
from tunesmith.memory.bill import Case, Layout, bill, peaks
from tunesmith.memory.estimate import to_json
from tunesmith.memory.picture import bill_svg
from tunesmith.memory.plan import make_plan
from tunesmith.memory.saving import copied_items, save_items
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Step
from tunesmith.memory.table import bill_markdown, bill_table
from tunesmith.memory.training import standing_items, step_items, total

QWEN, SMALL = ModelShape.from_config(QWEN_7B), ModelShape.from_config(SMOLLM2)
MIXTRAL = ModelShape.from_config(catalogue.lookup("mistralai/Mixtral-8x7B-v0.1") or {})
STRATEGIES = ("single", "ddp", "zero1", "zero2", "zero3", "fsdp")


def step(method: str = "full", strategy: str = "single", gpus: int = 1, **settings: Any) -> Step:
    parallel = {"strategy": strategy, "world_size": gpus, "offload": settings.pop("offload", "none")}
    adapter = {"rank": 16} if method != "full" else {}
    return Step.model_validate(
        {
            "method": {"method": method, "max_steps": 1, **adapter}, "arithmetic": "amp", "micro_batch_size": 1,
            "gradient_checkpointing": True, "accumulates": False, "parallel": parallel, **settings,
        }
    )  # fmt: skip


def copied(shape: ModelShape, asked: Step) -> int:
    return total(copied_items(shape, asked))


@pytest.mark.parametrize("shape", [QWEN, SMALL, MIXTRAL], ids=lambda shape: shape.model_type)
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_stands_is_there_while_it_is_saved(shape: ModelShape, method: str, strategy: str) -> None:
    asked = step(method, strategy, 1 if strategy == "single" else 4)
    saving, standing = save_items(shape, asked), standing_items(shape, asked)
    assert {name: saving[name] for name in standing} == standing
    assert total(saving) >= total(standing) > 0
    assert copied(shape, asked) > 0


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_dense_step_is_never_less_full_than_its_checkpoint(method: str, strategy: str) -> None:
    for shape in (QWEN, SMALL):
        asked = step(method, strategy, 1 if strategy == "single" else 8)
        assert total(save_items(shape, asked)) <= total(step_items(shape, asked))


def test_shards_are_put_together_a_weight_at_a_time() -> None:
    """The embedding: in 16 bits with ZeRO-3, whose gradients' buffer stays; in float32 with FSDP2 under autocast."""
    zero, fsdp = (save_items(QWEN, step("full", strategy, 8)) for strategy in ("zero3", "fsdp"))
    assert zero["gathered weights (ZeRO-3)"] == 2 * QWEN.embedding_params
    assert zero["gradients"] == -(-2 * QWEN.params // 8)
    assert fsdp["gathered weights (FSDP2)"] == 4 * QWEN.embedding_params
    assert fsdp["gradients"] == 0


def test_an_adapters_checkpoint_takes_little_host_memory() -> None:
    """But ZeRO-2 copies the frozen base too, in every process, and FSDP2 in one."""
    for strategy in ("single", "ddp", "zero3"):
        assert copied(QWEN, step("lora", strategy, 4)) < 2 * QWEN.params / 50
    assert copied(QWEN, step("lora", "zero2", 4)) > 4 * 2 * QWEN.params
    assert 2 * QWEN.params < copied(QWEN, step("lora", "fsdp", 4)) < 2.1 * QWEN.params


def test_one_process_copies_a_file_at_a_time() -> None:
    llama = ModelShape.from_config(catalogue.lookup("meta-llama/Llama-3.1-70B") or {})
    assert copied(QWEN, step()) == 4 * QWEN.params
    assert copied(llama, step()) == 50 * 10**9
    assert copied(llama, step("full", "ddp", 8)) == 50 * 10**9


def test_the_host_of_many_processes() -> None:
    whole = [copied(QWEN, step("full", "zero2", gpus)) for gpus in (2, 4, 8)]
    assert whole == [2 * gpus * QWEN.params for gpus in (2, 4, 8)]
    # One 16-bit copy, then a moment of every process: the trained numbers in float32, in all.
    assert copied(QWEN, step("full", "zero3", 8)) == pytest.approx(4 * QWEN.params, rel=1e-6)
    assert copied(QWEN, step("full", "zero3", 8, offload="optimizer")) == 2 * QWEN.params
    assert copied(QWEN, step("full", "fsdp", 8)) == 8 * QWEN.params


def test_experts_are_taken_apart_where_they_are_trained() -> None:
    """As measured: gate and up of every layer, on the device of one process, on the host of several."""
    apart = 4 * MIXTRAL.expert_weights * 2 // 3
    assert save_items(MIXTRAL, step())["experts, taken apart"] == apart
    assert save_items(MIXTRAL, step("lora"))["experts, taken apart"] == 0
    assert save_items(MIXTRAL, step("full", "zero3", 8))["experts, taken apart"] == 0
    assert copied(MIXTRAL, step("full", "zero2", 8)) == 2 * (8 * MIXTRAL.params + MIXTRAL.expert_weights * 2 // 3)
    assert save_items(QWEN, step())["experts, taken apart"] == 0


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_larger_models_take_more(method: str, strategy: str) -> None:
    asked = step(method, strategy, 1 if strategy == "single" else 4)
    shapes = [ModelShape.from_config({**SMOLLM2, "num_hidden_layers": layers}) for layers in (10, 20, 40)]
    for less, more in pairwise(shapes):
        assert total(save_items(less, asked)) < total(save_items(more, asked))
        assert copied(less, asked) < copied(more, asked)


def test_the_phase_is_part_of_bill_estimate_table_and_picture() -> None:
    plan = make_plan(recipe({"method": "lora"}), source(QWEN_7B), gpu(40))
    saved = to_json(plan)["phases"]["save"]
    assert 14 < saved["allocated_gib"] < to_json(plan)["phases"]["train"]["allocated_gib"]
    assert saved["host_gib"] == pytest.approx(0.6 + 4 * 161_480_704 / 2**30, abs=0.01)
    names = list(to_json(plan)["phases"])
    assert names.index("save") == names.index("train") + 1
    console = Console(record=True, width=120)
    console.print(bill_table(plan.bill))
    assert "save (host memory)" in console.export_text() and "| **save** |" in bill_markdown(plan.bill)
    assert ">save</text>" in bill_svg(plan)


def test_on_a_cpu_nothing_is_copied() -> None:
    asked = recipe({"method": "full"}, {"method": "none"})
    plan = make_plan(asked, source(SMOLLM2, gib=0.3), cpu(64))
    assert plan.allocated("save") == total(standing_items(SMALL, plan.step))
    assert not [item for item in plan.bill if item.place == "host"]


def test_a_host_too_small_for_the_copies_is_found_out() -> None:
    case = Case(recipe({"method": "full"}), source(QWEN_7B), QWEN)
    needed = peaks(bill(case, Layout("cuda", step("full", "zero2", 8), 1, 1)), "host")
    assert max(needed, key=lambda phase: needed[phase]) == "save"
    assert needed["save"] > 8 * 2 * QWEN.params
