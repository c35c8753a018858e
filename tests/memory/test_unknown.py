"""Architectures that the bill does not know: their steps are simulated, and the plan is held to what that finds."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory.cases import QWEN_7B, cpu, gpu, recipe, source
from tests.recipes import CONFIG, tiny_recipe
from tunesmith.artifacts import Hardware, Plan, Simulation
from tunesmith.errors import DoesNotFit, ModelError
from tunesmith.memory.bill import peaks
from tunesmith.memory.constants import GIB
from tunesmith.memory.findings import BY_SIMULATION
from tunesmith.memory.plan import launchable, make_plan, on_smallest_card
from tunesmith.memory.said import SimulatedPeak
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Step
from tunesmith.memory.training import step_items, total
from tunesmith.memory.unknown import ROUNDS, Simulate

CONFIG_OF_NEWCOMER = {**QWEN_7B, "model_type": "newcomer"}
NEWCOMER = source(CONFIG_OF_NEWCOMER, "someone/newcomer-7b")
SHAPE = ModelShape.from_config(CONFIG_OF_NEWCOMER)
LORA = recipe({"method": "lora", "rank": 16, "max_length": 2048}, {"method": "none"})
SAID = "newcomer is not a known architecture"


class Simulator:
    """Says that a step takes so many times what the formula has for it, and the allocator 5 % more."""

    def __init__(self, ratio: Callable[[Step], float]) -> None:
        self.ratio = ratio
        self.asked: list[Step] = []

    def __call__(self, plan: Plan) -> Simulation:
        self.asked.append(plan.step)
        size = int(total(step_items(SHAPE, plan.step)) * self.ratio(plan.step))
        fullest, least = (
            SimulatedPeak(
                allocated_bytes=size // share, reserved_native_bytes=size, reserved_expandable_bytes=size * 21 // 20,
                owners={},
            )
            for share in (1, 2)
        )  # fmt: skip
        return Simulation(
            fingerprint="0" * 16, forward_backward=fullest, optimizer=least, evaluate=None, timeline=(), events=1,
            versions={},
        )  # fmt: skip


def planned(simulate: Simulate | None, hardware: Hardware | None = None) -> Plan:
    """As a run is planned: one process, nothing offloaded."""
    return make_plan(launchable(LORA), NEWCOMER, hardware or gpu(40), simulate)


@pytest.mark.parametrize("ratio", [0.5, 0.93, 1.0, 1.02, 1.3])
def test_the_bill_adds_up_to_the_simulated_figure(ratio: float) -> None:
    simulator = Simulator(lambda step: ratio)
    plan = planned(simulator)
    simulated = int(total(step_items(SHAPE, plan.step)) * ratio)
    training = {item.item: item.bytes for item in plan.bill if item.phase == "train" and item.place == "device"}
    assert plan.allocated("train") == simulated
    assert sum(training.values()) - training["CUDA context"] == simulated * 21 // 20
    assert (BY_SIMULATION in training) == (ratio > 1)
    assert all(size >= 0 for size in training.values())
    assert max(peaks(plan.bill).values()) == plan.peak_bytes <= plan.budget_bytes
    assert plan.step in simulator.asked


def test_on_a_cpu_the_process_is_beside_the_simulated_tensors() -> None:
    plan = planned(Simulator(lambda step: 1.2), cpu(200))
    plain = planned(None, cpu(200))
    held = {item.item: item.bytes for item in plan.bill if item.phase == "train" and item.kind != "allocated"}
    assert plan.step == plain.step
    assert plan.allocated("train") == pytest.approx(1.2 * plain.allocated("train"), rel=1e-9)
    before = {item.item: item.bytes for item in plain.bill if item.phase == "train" and item.kind != "allocated"}
    assert held["process"] == before["process"]
    assert held["held by malloc"] == pytest.approx(1.2 * before["held by malloc"], rel=1e-6)


def test_a_plan_that_its_simulation_does_not_fit_gives_way_to_a_frugal_one() -> None:
    """Nothing but what is checkpointed takes what the formula says."""
    fits = planned(None)
    simulator = Simulator(lambda step: 1.1 if step.gradient_checkpointing else 3.0)
    assert not fits.gradient_checkpointing
    plan = planned(simulator)
    assert plan.gradient_checkpointing
    assert simulator.asked == [fits.step, plan.step]
    assert "simulated, 10.0% more than a Llama of its sizes" in plan.summary
    assert plan.rejected


def test_what_is_refused_by_the_formula_may_fit_by_simulation() -> None:
    asked = launchable(recipe({"method": "full", "max_length": 512}))
    with pytest.raises(
        DoesNotFit, match=r"\(newcomer is not a known architecture: estimated .*, not simulated\) with full"
    ):
        make_plan(asked, NEWCOMER, gpu(60))
    plan = make_plan(asked, NEWCOMER, gpu(60), Simulator(lambda step: 0.5))
    assert "simulated, 50.0% less than a Llama of its sizes" in plan.summary


def test_a_step_that_cannot_be_simulated_is_billed_with_what_others_were_found_to_take() -> None:
    def simulate(plan: Plan) -> Simulation:
        if plan.step.parallel.offload != "none":
            raise ModelError("A step that is spread or offloaded cannot be simulated: rely on the estimate.")
        return Simulator(lambda step: 1.2)(plan)

    asked = recipe({"method": "full", "max_length": 512, "optimizer": "adamw_fused"})
    plan = make_plan(asked, NEWCOMER, gpu(140, ram_gib=512), simulate)
    assert plan.step.parallel.offload == "optimizer"
    assert plan.allocated("train") == pytest.approx(1.2 * total(step_items(SHAPE, plan.step)), rel=1e-6)
    assert "its sizes and 20.0% more, not simulated (a step that is spread or offloaded cannot be" in plan.summary


def test_what_no_simulation_finds_room_for_is_refused() -> None:
    simulator = Simulator(lambda step: 10.0)
    with pytest.raises(DoesNotFit) as raised:
        planned(simulator)
    assert raised.value.message.startswith("someone/newcomer-7b with lora r=16 does not fit: train needs ")
    assert raised.value.closest is not None
    assert raised.value.closest.step in simulator.asked
    assert len(simulator.asked) <= ROUNDS


def test_a_plan_that_only_might_fit_is_refused() -> None:
    """Whatever is asked about takes more than the last one did."""
    simulator = Simulator(lambda step: 1.0)
    simulator.ratio = lambda step: (34.0 + len(simulator.asked)) * GIB / total(step_items(SHAPE, step))
    with pytest.raises(DoesNotFit, match=r"is not known to fit: none of the 3 steps that were simulated does"):
        planned(simulator)
    assert len(set(map(repr, simulator.asked))) == ROUNDS


@settings(deadline=None)
@given(st.lists(st.floats(0.3, 3), min_size=7, max_size=7), st.floats(24, 100))
def test_a_plan_is_always_one_that_was_simulated_and_fits(ratios: list[float], gib: float) -> None:
    simulator = Simulator(lambda step: ratios[total(step_items(SHAPE, step)) % 7])
    try:
        plan = planned(simulator, gpu(gib))
    except DoesNotFit:
        assert len(simulator.asked) <= ROUNDS
    else:
        assert len(simulator.asked) <= ROUNDS
        assert plan.step in simulator.asked
        assert plan.allocated("train") == int(total(step_items(SHAPE, plan.step)) * simulator.ratio(plan.step))
        assert plan.peak_bytes <= plan.budget_bytes


def test_the_smallest_card_is_one_on_which_the_simulated_step_fits() -> None:
    by_formula, simulator = on_smallest_card(LORA, NEWCOMER), Simulator(lambda step: 1.5)
    plan, card = on_smallest_card(LORA, NEWCOMER, simulator)
    assert by_formula[1] == "1 x 24 GiB (RTX 4090)" != card
    assert plan.step in simulator.asked


def test_without_a_simulation_the_summary_says_what_the_figures_are() -> None:
    def impossible(plan: Plan) -> Simulation:
        raise ModelError(
            "What newcomer allocates depends on its input: it cannot be simulated, so rely on the estimate."
        )

    plain, failed = planned(None), planned(impossible)
    assert f"{SAID}: estimated as a Llama of its sizes, not simulated -> " in plain.summary
    assert "not simulated (what newcomer allocates depends on its input) -> " in failed.summary
    assert plain.bill == failed.bill
    assert len({plain.fingerprint, failed.fingerprint, planned(Simulator(lambda step: 1.0)).fingerprint}) == 3


def test_a_known_architecture_is_not_simulated() -> None:
    simulator = Simulator(lambda step: 1.0)
    assert make_plan(LORA, source(QWEN_7B), gpu(40), simulator) == make_plan(LORA, source(QWEN_7B), gpu(40))
    assert simulator.asked == []


OLMO2 = {**CONFIG, "model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "pad_token_id": 0}
NEOX = {**CONFIG, "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "pad_token_id": 0}


def command(*words: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith.cli", *words, "--json"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def folder(tmp_path: Path, config: dict[str, Any]) -> str:
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 6, "hidden_size": 128}))
    return str(tmp_path)


@pytest.mark.env
@pytest.mark.parametrize(("config", "method"), [(OLMO2, "full"), (NEOX, "lora")])
def test_an_estimate_runs_the_real_class_of_an_architecture_it_does_not_know(
    tmp_path: Path, config: dict[str, Any], method: str
) -> None:
    asked = ("--set", f"train.method={method}", "--set", "train.max_length=256", "--store", str(tmp_path / "store"))
    facts = command("estimate", folder(tmp_path, config), "--gpu-memory", "8", *asked, "--simulate")
    assert f"{config['model_type']} is not a known architecture: simulated, " in facts["plan"]["summary"]
    training, simulation = facts["phases"]["train"], facts["simulation"]
    # A figure of the JSON has four places.
    assert training["allocated_gib"] == pytest.approx(simulation["forward_backward"]["allocated_gib"], abs=1e-4)
    assert training["reserved_gib"] == pytest.approx(
        max(simulation[phase]["reserved_expandable_gib"] for phase in ("forward_backward", "optimizer")), abs=1e-4
    )
    items = [item["gib"] for item in facts["bill"] if (item["phase"], item["place"]) == ("train", "device")]
    assert sum(items) == pytest.approx(training["device_gib"], abs=1e-3)
    assert len(list((tmp_path / "store").glob("simulate-*"))) == 1


def test_an_estimate_where_nothing_can_be_simulated_says_so(tmp_path: Path) -> None:
    facts = command(
        "estimate", folder(tmp_path, OLMO2), "--gpu-memory", "8", "--store", str(tmp_path / "store"),
        TUNESMITH_HOME=str(tmp_path),
    )  # fmt: skip
    summary = facts["plan"]["summary"]
    assert "olmo2 is not a known architecture: estimated as a Llama of its sizes, not simulated " in summary
    assert "(the environment train is not built) -> " in summary


@pytest.mark.env
def test_a_run_is_planned_by_simulation_too(tmp_path: Path) -> None:
    path = tiny_recipe(tmp_path)
    (tmp_path / "model" / "config.json").write_text(json.dumps(OLMO2))
    store = ("--store", str(tmp_path / "store"))
    first, second = (command("plan", str(path), *store) for _ in range(2))
    assert "olmo2 is not a known architecture: simulated, " in first["estimate"]["plan"]["summary"]
    assert second == first


@pytest.mark.env
def test_what_the_installed_libraries_do_not_have_is_estimated_and_not_run(tmp_path: Path) -> None:
    path = tiny_recipe(tmp_path)
    newcomer = {**CONFIG, "model_type": "newcomer"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(newcomer))
    store = ("--store", str(tmp_path / "store"))
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith.cli", "plan", str(path), *store], capture_output=True, text=True
    )
    assert done.returncode == 78
    assert "This transformers has no model_type 'newcomer': choose a model it knows, or update it." in done.stderr
    summary = command("estimate", str(path), *store)["plan"]["summary"]
    assert (
        "estimated as a Llama of its sizes, not simulated (this transformers has no model_type 'newcomer')" in summary
    )
