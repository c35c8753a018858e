"""The bill beside a simulation: when the two are said to agree, and which job asks for the simulation."""

import pytest

from tests.memory.cases import QWEN_7B, cpu, gpu, recipe, source
from tunesmith.artifacts import Plan, Simulation
from tunesmith.errors import RecipeError
from tunesmith.memory.bill import Layout, evaluating
from tunesmith.memory.confirm import Confirmation, simulate_job
from tunesmith.memory.constants import CPU_PROCESS_BYTES, GIB
from tunesmith.memory.plan import make_case, make_plan
from tunesmith.memory.said import SimulatedPeak
from tunesmith.memory.training import total


def peak(size: int) -> SimulatedPeak:
    return SimulatedPeak(
        allocated_bytes=size, reserved_native_bytes=size, reserved_expandable_bytes=size, owners={"weights": size}
    )


def simulated(step: int, optimizer: int = 0, evaluate: int | None = None) -> Simulation:
    return Simulation(
        fingerprint="0" * 16, forward_backward=peak(step), optimizer=peak(optimizer),
        evaluate=None if evaluate is None else peak(evaluate), timeline=(), events=1, versions={},
    )  # fmt: skip


@pytest.mark.parametrize(("billed", "agrees"), [(1000, True), (1030, True), (1031, False), (970, True), (969, False)])
def test_three_per_cent_apart_is_an_error(billed: int, agrees: bool) -> None:
    assert (Confirmation(billed, simulated(1000)).objection is None) == agrees


@pytest.mark.parametrize(("billed", "agrees"), [(2000, True), (2060, True), (2061, False), (1940, True), (1939, False)])
def test_the_evaluation_too(billed: int, agrees: bool) -> None:
    assert (Confirmation(1000, simulated(1000, evaluate=2000), billed).objection is None) == agrees


def test_the_objection_names_the_phase_that_differs() -> None:
    evaluation = Confirmation(2 * GIB, simulated(2 * GIB, evaluate=4 * GIB), 3 * GIB).objection
    assert evaluation == (
        "The bill says 3.00 GiB for the evaluation where the simulation has 4.00 (-25.0%): "
        "the installed libraries do something it does not know; plan on the larger."
    )
    step = Confirmation(3 * GIB, simulated(2 * GIB, evaluate=4 * GIB), 4 * GIB).objection
    assert step is not None and "for the training step" in step and "evaluation" not in step
    both = Confirmation(3 * GIB, simulated(2 * GIB, evaluate=4 * GIB), 3 * GIB).objection
    assert both is not None and "for the training step" in both and "for the evaluation" in both


def test_an_evaluation_that_was_not_simulated_is_not_compared() -> None:
    found = Confirmation(1000, simulated(1000), 2000)
    assert found.objection is None and found.evaluation is None and "evaluation" not in found.summary


def test_the_fuller_of_step_and_optimizer_counts() -> None:
    found = Confirmation(2000, simulated(1000, optimizer=2000))
    assert (found.simulated_bytes, found.error) == (2000, 0.0)


def test_the_simulated_step_is_the_plans() -> None:
    plan = make_plan(recipe(), source(QWEN_7B), gpu(24))
    job = simulate_job(recipe(), source(QWEN_7B), plan)
    assert job.step == plan.step
    assert job.config == QWEN_7B


def test_the_simulated_evaluation_is_the_plans() -> None:
    """With the rows that fit, where the recipe's do not."""
    asked = recipe()
    tight, roomy = (make_plan(asked, source(QWEN_7B), machine) for machine in (gpu(19.2), gpu(24)))
    assert tight.evaluation_rows < roomy.evaluation_rows == asked.evaluate.batch_size
    assert simulate_job(asked, source(QWEN_7B), tight).evaluation_rows == tight.evaluation_rows


@pytest.mark.parametrize("gib", [1, 14.2, 200])
def test_a_weight_file_on_a_cpu_is_no_tensor_of_the_evaluation(gib: float) -> None:
    """A large one makes the phase fuller; what is compared with the simulation stays."""
    asked = recipe({"method": "lora"})
    plan = make_plan(asked, source(QWEN_7B, gib=gib), cpu(128))
    judged = total(evaluating(make_case(asked, source(QWEN_7B)), layout_of(plan)))
    assert plan.allocated("evaluate") == judged
    read_in = 4 * 7_615_616_512 + int(gib * GIB / 4)
    assert plan.interval("evaluate")[1] == CPU_PROCESS_BYTES + max(judged, read_in)


def layout_of(plan: Plan) -> Layout:
    return Layout(plan.device, plan.step, plan.accumulation_steps, plan.evaluation_rows)


def test_a_spread_step_is_not_simulated() -> None:
    asked = recipe({"method": "full"}, hardware={"gpus": 8})
    plan = make_plan(asked, source(QWEN_7B), gpu(80, 8, ram_gib=1024))
    with pytest.raises(RecipeError, match="one GPU's own step"):
        simulate_job(asked, source(QWEN_7B), plan)
