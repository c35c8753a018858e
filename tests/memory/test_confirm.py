"""The bill beside a simulation: when the two are said to agree, and which job asks for the simulation."""

import pytest

from tests.memory.cases import QWEN_7B, gpu, recipe, source
from tunesmith.artifacts import SimulatedPeak, Simulation
from tunesmith.errors import RecipeError
from tunesmith.memory.confirm import Confirmation, simulate_job
from tunesmith.memory.plan import make_plan


def peak(size: int) -> SimulatedPeak:
    return SimulatedPeak(
        allocated_bytes=size, reserved_native_bytes=size, reserved_expandable_bytes=size, owners={"weights": size}
    )


def confirmation(billed: int, step: int, optimizer: int = 0) -> Confirmation:
    simulation = Simulation(
        fingerprint="0" * 16, forward_backward=peak(step), optimizer=peak(optimizer), evaluate=None, timeline=(),
        events=1, versions={},
    )  # fmt: skip
    return Confirmation(billed, simulation)


@pytest.mark.parametrize(("billed", "agrees"), [(1000, True), (1030, True), (1031, False), (970, True), (969, False)])
def test_three_per_cent_apart_is_an_error(billed: int, agrees: bool) -> None:
    assert (confirmation(billed, 1000).objection is None) == agrees


def test_the_fuller_of_step_and_optimizer_counts() -> None:
    found = confirmation(2000, 1000, optimizer=2000)
    assert (found.simulated_bytes, found.error) == (2000, 0.0)


def test_the_simulated_step_is_the_plans() -> None:
    plan = make_plan(recipe(), source(QWEN_7B), gpu(24))
    job = simulate_job(recipe(), source(QWEN_7B), plan)
    assert job.step == plan.step
    assert job.config == QWEN_7B


def test_a_spread_step_is_not_simulated() -> None:
    asked = recipe({"method": "full"}, hardware={"gpus": 8})
    plan = make_plan(asked, source(QWEN_7B), gpu(80, 8, ram_gib=1024))
    with pytest.raises(RecipeError, match="one GPU's own step"):
        simulate_job(asked, source(QWEN_7B), plan)
