"""The plan: it fits, it keeps the recipe, it is the fastest there is; and what is said when there is none."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory.cases import QWEN_7B, SMOLLM2, cpu, gpu, recipe, source
from tunesmith.artifacts import Hardware, Plan
from tunesmith.errors import DoesNotFit, GroupSizeError, RecipeError, revive
from tunesmith.memory import catalogue
from tunesmith.memory.bill import peaks
from tunesmith.memory.constants import GIB
from tunesmith.memory.ladder import rungs
from tunesmith.memory.parallel import Parallel, held
from tunesmith.memory.plan import launchable, make_case, make_plan
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.training import states
from tunesmith.specs.parallel import ParallelSpec

QWEN, SMALL = source(QWEN_7B), source(SMOLLM2, "HuggingFaceTB/SmolLM2-135M-Instruct", 0.25)
SHAPE = ModelShape.from_config(QWEN_7B)
NO_PACKING = {"method": "none"}


def plan_small(train: dict[str, Any] | None = None, hardware: Hardware | None = None, **limits: Any) -> Plan:
    return make_plan(recipe({"rank": 16, **(train or {})}, NO_PACKING, limits), SMALL, hardware or cpu())


def test_the_7b_job_fits_one_24_gib_card() -> None:
    plan = make_plan(recipe(), QWEN, gpu(23.99))
    assert plan.peak_bytes <= plan.budget_bytes < 21.7 * GIB
    assert plan.device == "cuda"
    assert plan.precision == "bf16"
    assert plan.micro_batch_size * plan.accumulation_steps == 16
    assert plan.summary.startswith("train: 7.62 B params, nf4, r=64, micro-batch ")
    assert plan.peak_bytes == max(peaks(plan.bill).values())


def test_more_memory_buys_speed() -> None:
    small, large = (make_plan(recipe(), QWEN, gpu(gib)) for gib in (24, 141))
    assert small.gradient_checkpointing
    assert not large.gradient_checkpointing
    assert large.micro_batch_size > small.micro_batch_size


def test_a_cpu_trains_in_float32() -> None:
    plan = plan_small()
    assert (plan.device, plan.precision) == ("cpu", "fp32")
    assert {item.place for item in plan.bill} == {"device"}
    assert "weights (fp32)" in {item.item for item in plan.bill if item.phase == "evaluate"}


def test_the_recipe_overrules_the_plan() -> None:
    plan = plan_small({"micro_batch_size": 2, "gradient_checkpointing": "on"})
    assert (plan.micro_batch_size, plan.accumulation_steps, plan.gradient_checkpointing) == (2, 8, True)
    assert not plan_small({"gradient_checkpointing": "off"}).gradient_checkpointing


BATCHES, LENGTHS = st.integers(1, 48), st.integers(8, 1024)


@settings(deadline=None)
@given(BATCHES, LENGTHS, st.floats(2, 64), st.sampled_from(["lora", "qlora", "full"]), st.sampled_from([cpu, gpu]))
def test_a_plan_fits_and_keeps_the_effective_batch(
    batch: int, length: int, gib: float, method: str, machine: Any
) -> None:
    asked: dict[str, Any] = {"method": method, "batch_size": batch, "max_length": length}
    adapter = {} if method == "full" else {"rank": 8}
    try:
        plan = make_plan(recipe({**asked, **adapter}, NO_PACKING), SMALL, machine(gib))
    except DoesNotFit as refused:
        assert max(peaks(refused.bill).values()) > 0.9 * gib * GIB
    else:
        assert plan.micro_batch_size * plan.accumulation_steps == batch
        assert all(size <= plan.budget_bytes for size in peaks(plan.bill).values())


@given(st.integers(2, 32), LENGTHS)
def test_accumulation_costs_no_memory(accumulation: int, length: int) -> None:
    asked = {"micro_batch_size": 4, "max_length": length, "gradient_checkpointing": "off"}
    plans = [plan_small({**asked, "batch_size": 4 * steps}, cpu(200)) for steps in (2, accumulation)]
    assert plans[0].peak_bytes == plans[1].peak_bytes


def test_a_refusal_crosses_a_process_boundary() -> None:
    back = revive("DoesNotFit", "It does not fit.")
    assert isinstance(back, DoesNotFit)
    assert (back.message, back.bill, back.plan) == ("It does not fit.", (), None)


def test_a_group_that_does_not_divide_is_refused_with_those_that_do() -> None:
    with pytest.raises(GroupSizeError) as raised:
        make_plan(recipe({"rank": 16}, {"method": "gptq", "group_size": 128}), SMALL, cpu())
    assert raised.value.message.startswith("quantize.group_size 128 does not divide the input width of q_proj (576), ")
    assert raised.value.message.endswith(": choose 32 or 64.")
    make_plan(recipe({"rank": 16}, {"method": "gptq", "group_size": 64}), SMALL, cpu())


def test_a_group_that_divides_but_no_kernel_knows_is_refused() -> None:
    with pytest.raises(GroupSizeError, match=r"group_size 24 is not one that GPTQ kernels know: choose 32 or 64\."):
        make_plan(recipe(quantize={"method": "gptq", "group_size": 24}), SMALL, cpu())


def test_a_model_no_group_divides_is_told_to_stay_unquantized() -> None:
    odd = {**SMOLLM2, "intermediate_size": 1530}
    with pytest.raises(GroupSizeError, match=r"no known group size does, so set quantize\.method to none"):
        make_plan(recipe(quantize={"method": "gptq", "group_size": 64}), source(odd), cpu())


def test_targets_the_model_does_not_have_are_named() -> None:
    with pytest.raises(RecipeError, match=r"no linear layer named q_prj; choose from q_proj, k_proj"):
        plan_small({"targets": ["q_prj", "v_proj"]})
    assert plan_small({"targets": ["q_proj", "v_proj"]}).disk_bytes < plan_small().disk_bytes


def names(plan: Plan) -> list[str]:
    return [rung.plan.partition(":")[0] for rung in plan.rejected]


def test_the_ladder_saves_memory_before_it_costs_time() -> None:
    plan = make_plan(recipe({"method": "lora", "max_length": 2048}), QWEN, gpu(24))
    assert (plan.step.loss, plan.step.optimizer, plan.gradient_checkpointing) == ("chunked", "adamw_fused", True)
    assert names(plan) == ["as asked", "as asked", "chunked loss", "chunked loss"]
    assert all(rung.high_bytes > plan.budget_bytes for rung in plan.rejected)
    assert plan.rejected[0].why.startswith("train needs ")


def test_several_gpus_are_shared_out_before_anything_is_offloaded() -> None:
    plan = make_plan(recipe({"method": "full"}, hardware={"gpus": 8}), QWEN, gpu(80, 8, ram_gib=1024))
    assert (plan.step.parallel.strategy, plan.step.parallel.world_size) == ("zero2", 8)
    assert plan.step.parallel.offload == "none"
    assert plan.micro_batch_size * plan.accumulation_steps * 8 == 16


def test_offload_comes_with_its_price() -> None:
    plan = make_plan(recipe({"method": "full", "optimizer": "adamw_fused"}), QWEN, gpu(80, ram_gib=512))
    assert plan.step.parallel.offload == "optimizer"
    assert 1.0 < plan.transfer_seconds < 2.0
    assert f"(+{plan.transfer_seconds:.1f} s a step)" in plan.summary


def test_a_method_left_open_is_packed_only_where_it_must_be() -> None:
    asked = {"method": "auto", "max_length": 1024}
    assert make_plan(recipe(asked), QWEN, gpu(40)).step.method.method == "lora"
    forced = {**asked, "loss": "full", "optimizer": "adamw_fused", "max_length": 2048}
    tight = make_plan(launchable(recipe(forced)), QWEN, gpu(24))
    assert tight.step.method.method == "qlora"
    assert "as asked" in names(tight)


def test_a_run_starts_one_process_and_says_so() -> None:
    spread = recipe().model_copy(update={"parallel": ParallelSpec(strategy="zero3", world_size=4)})
    with pytest.raises(RecipeError, match="not started by a run yet: leave parallel out"):
        launchable(spread)


def test_gpus_that_a_run_leaves_idle_are_counted_in_its_summary() -> None:
    asked = recipe(hardware={"gpus": 4})
    run, alone = make_plan(launchable(asked), QWEN, gpu(40, 4)), make_plan(launchable(recipe()), QWEN, gpu(40, 4))
    assert run.summary == f"{alone.summary}; of 4 GPUs asked for, one is used"
    assert (run.step, run.bill) == (alone.step, alone.bill)
    assert run.fingerprint != alone.fingerprint
    assert "asked for" not in make_plan(asked, QWEN, gpu(40, 4)).summary
    with pytest.raises(DoesNotFit, match="asks for 4 GPUs and this machine has 2"):
        make_plan(launchable(asked), QWEN, gpu(40, 2))


def test_one_process_takes_the_whole_batch() -> None:
    alone = recipe(hardware={"gpus": 4}).model_copy(update={"parallel": ParallelSpec(strategy="single")})
    plan = make_plan(alone, QWEN, gpu(40, 4))
    assert (plan.step.parallel.world_size, plan.micro_batch_size * plan.accumulation_steps) == (1, 16)


@given(st.integers(1, 16), LENGTHS)
def test_sharded_states_add_up(world: int, length: int) -> None:
    step = make_plan(recipe({"method": "full", "max_length": length}), QWEN, gpu(500, ram_gib=4096)).step
    whole = states(SHAPE, step.model_copy(update={"parallel": Parallel(strategy="zero3", world_size=1)}))
    share = held(whole, Parallel(strategy="zero3", world_size=world))
    for mine, all_of_it in zip(share[:3], (whole.weights, whole.gradients, whole.optimizer), strict=True):
        assert all_of_it <= mine * world < all_of_it + world


def test_capped_scores_are_written_out() -> None:
    gemma = source(catalogue.lookup("google/gemma-2-2b") or {}, "google/gemma-2-2b", 5)
    plan = make_plan(recipe(), gemma, gpu(40))
    assert plan.step.attention == "eager"
    assert {rung.loss for rung in rungs(make_case(recipe(), gemma), gpu(40))} == {"full"}
    assert make_plan(recipe(), QWEN, gpu(40)).step.attention == "sdpa"
    with pytest.raises(RecipeError, match=r"train\.attention sdpa: gemma2 caps its attention scores"):
        make_plan(recipe({"attention": "sdpa"}), gemma, gpu(40))


@pytest.mark.parametrize(
    ("asked", "tried"),
    [
        ({"strategy": "fsdp"}, {("fsdp", "none"), ("fsdp", "optimizer"), ("fsdp", "parameters")}),
        ({"strategy": "zero2"}, {("zero2", "none"), ("zero2", "optimizer")}),
        ({"strategy": "zero3", "offload": "none"}, {("zero3", "none")}),
        ({"strategy": "ddp"}, {("ddp", "none")}),
        ({"offload": "optimizer"}, {("zero2", "optimizer")}),
        ({"offload": "nvme"}, {("zero3", "nvme")}),
    ],
)
def test_what_the_recipe_states_stays_on_every_rung(asked: dict[str, str], tried: set[tuple[str, str]]) -> None:
    stated = recipe({"method": "full"}).model_copy(update={"parallel": ParallelSpec.model_validate(asked)})
    found = rungs(make_case(stated, QWEN), gpu(24, 4))
    assert {(rung.parallel.strategy, rung.parallel.offload) for rung in found} == tried
