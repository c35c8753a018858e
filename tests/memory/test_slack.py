"""What the allocator is billed beyond tensors: beside replays of simulated steps, and what each term is for."""

from typing import Any

import pytest

from tests.memory.cases import QWEN_7B, SMOLLM2, gpu, recipe, source
from tunesmith.memory import catalogue
from tunesmith.memory.bill import Layout, bill, peaks
from tunesmith.memory.constants import GIB
from tunesmith.memory.parallel import Parallel
from tunesmith.memory.plan import make_case, make_plan
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.slack import plain_slack, step_slack
from tunesmith.memory.step import Step
from tunesmith.memory.training import moments, step_items, total

MIB = 2**20


def shape_of(repo: str) -> ModelShape:
    return ModelShape.from_config(catalogue.lookup(repo) or {})


def asked(method: str, arithmetic: str, micro: int, length: int, **choices: Any) -> Step:
    rank = choices.pop("rank", 16)
    train: dict[str, Any] = {"method": method, "max_length": length} | ({} if method == "full" else {"rank": rank})
    return Step.model_validate(
        {
            "method": recipe(train).train.model_dump(), "arithmetic": arithmetic, "micro_batch_size": micro,
            "gradient_checkpointing": False, "accumulates": False, **choices,
        }
    )  # fmt: skip


def slack(shape: ModelShape, step: Step) -> int:
    return step_slack(shape, step, moments(shape, step))


CHECKPOINTED = {"gradient_checkpointing": True}


@pytest.mark.parametrize(
    ("repo", "step", "reserved_gib"),
    [
        ("HuggingFaceTB/SmolLM2-135M", asked("lora", "amp", 8, 512, **CHECKPOINTED, accumulates=True), 3.143),
        ("HuggingFaceTB/SmolLM2-135M", asked("lora", "amp", 8, 512, accumulates=True), 6.570),
        ("Qwen/Qwen2.5-0.5B", asked("full", "bf16", 2, 1024, **CHECKPOINTED), 7.781),
        ("Qwen/Qwen2.5-0.5B", asked("qlora", "amp", 4, 1024, **CHECKPOINTED), 9.578),
        ("meta-llama/Llama-3.2-1B", asked("full", "amp", 8, 1024, **CHECKPOINTED), 32.135),
        ("meta-llama/Llama-3.1-8B", asked("lora", "amp", 1, 4096, **CHECKPOINTED, rank=8), 23.348),
        (
            "mistralai/Mistral-7B-v0.1",
            asked("lora", "amp", 1, 1024, accumulates=True, rank=64, optimizer="adamw_8bit"),
            22.656,
        ),
        ("Qwen/Qwen2.5-7B", asked("qlora", "amp", 2, 4096, **CHECKPOINTED, rank=64), 30.283),
    ],
)
def test_what_is_billed_is_what_a_replay_reserves(repo: str, step: Step, reserved_gib: float) -> None:
    """Replays in expandable segments, which reserve up to a fifth more than tensors take, and as little as 1 %."""
    shape = shape_of(repo)
    billed = (total(step_items(shape, step)) + slack(shape, step)) / GIB
    assert reserved_gib <= billed <= 1.05 * reserved_gib


def test_logits_in_16_bits_leave_a_hole() -> None:
    """Whose half the gradients of the logits do not fit in; float32 ones have the same length."""
    shape = shape_of("Qwen/Qwen2.5-0.5B")
    step = asked("lora", "amp", 4, 1024, **CHECKPOINTED)
    whole, pieces = slack(shape, step), slack(shape, step.model_copy(update={"loss": "chunked"}))
    assert whole - pieces > 2 * (4096 - 512) * shape.vocab * 0.99
    assert slack(shape, step.model_copy(update={"arithmetic": "fp32"})) < whole - 2 * 4096 * shape.vocab * 0.9


def test_copies_of_checkpointed_blocks_leave_holes() -> None:
    shape = shape_of("meta-llama/Llama-3.2-1B")
    amp = asked("full", "amp", 8, 1024, **CHECKPOINTED, accumulates=True)
    assert slack(shape, amp) - slack(shape, amp.model_copy(update={"arithmetic": "bf16"})) > 2 * shape.linear_weights


def test_freed_gradients_are_lost_to_longer_logits() -> None:
    shape = shape_of("meta-llama/Llama-3.2-1B")
    short, long = (asked("full", "bf16", micro, 1024, **CHECKPOINTED) for micro in (1, 8))
    kept = {"accumulates": True}
    assert slack(shape, long) - slack(shape, long.model_copy(update=kept)) > 0.5 * 2 * shape.params
    assert slack(shape, short) - slack(shape, short.model_copy(update=kept)) < 0.2 * 2 * shape.params


def test_a_spread_step_has_four_per_cent_at_least() -> None:
    shape, alone = ModelShape.from_config(QWEN_7B), asked("full", "bf16", 1, 256, accumulates=True)
    spread = alone.model_copy(update={"parallel": Parallel(strategy="fsdp", world_size=8)})
    items = step_items(shape, spread)
    assert slack(shape, spread) >= 0.04 * (total(items) - items["NCCL"])
    assert slack(shape, alone) < 0.04 * total(step_items(shape, alone))


def test_weights_alone_waste_little() -> None:
    assert plain_slack({"weights": 10 * GIB}) < 0.015 * 10 * GIB
    assert plain_slack({"weights": 10 * GIB}, unpacked=100 * MIB) == plain_slack({"weights": 10 * GIB}) + 100 * MIB


def test_the_low_end_is_what_tensors_take_with_the_context() -> None:
    plan = make_plan(recipe(), source(QWEN_7B), gpu(24))
    items = [item for item in plan.bill if item.phase == "train" and item.place == "device"]
    tensors = total(step_items(ModelShape.from_config(QWEN_7B), plan.step))
    assert sum(item.bytes for item in items if item.kind == "allocated") == tensors
    assert peaks(plan.bill, slack=False)["train"] == tensors + GIB // 2
    assert peaks(plan.bill)["train"] - peaks(plan.bill, slack=False)["train"] == slack(
        ModelShape.from_config(QWEN_7B), plan.step
    )


@pytest.mark.parametrize("phase", ["load", "train", "quantize", "evaluate"])
def test_every_phase_on_a_gpu_has_its_slack(phase: str) -> None:
    case = make_case(recipe(quantize={"method": "gptq", "group_size": 64}), source(SMOLLM2))
    items = bill(case, Layout("cuda", asked("qlora", "amp", 2, 512), 8, 1))
    assert peaks(items)[phase] > peaks(items, slack=False)[phase]
