"""The bill held against a simulation of the very step and evaluation it is for."""

from typing import NamedTuple

from tunesmith.artifacts import ModelSource, Plan, Simulation
from tunesmith.errors import RecipeError
from tunesmith.jobs import SimulateJob
from tunesmith.memory.constants import GIB
from tunesmith.specs.recipe import Recipe

TOLERANCE = 0.03
"""Share by which the two may differ before one of them is wrong about the installed libraries."""


class Compared(NamedTuple):
    """What tensors take in a phase, twice."""

    phase: str
    billed_bytes: int
    simulated_bytes: int

    @property
    def error(self) -> float:
        """Of the bill, as a share of the simulation."""
        return self.billed_bytes / self.simulated_bytes - 1

    @property
    def agrees(self) -> bool:
        return abs(self.billed_bytes - self.simulated_bytes) <= round(TOLERANCE * self.simulated_bytes)


class Confirmation(NamedTuple):
    billed_bytes: int
    """What the tensors of a training step take, by the bill."""
    simulation: Simulation
    billed_evaluation_bytes: int = 0
    """What those of a batch of the evaluation take; it counts where the simulation has one."""

    @property
    def simulated_bytes(self) -> int:
        return max(self.simulation.forward_backward.allocated_bytes, self.simulation.optimizer.allocated_bytes)

    @property
    def step(self) -> Compared:
        return Compared("the training step", self.billed_bytes, self.simulated_bytes)

    @property
    def evaluation(self) -> Compared | None:
        """None where none was simulated."""
        if not self.simulation.evaluate:
            return None
        return Compared("the evaluation", self.billed_evaluation_bytes, self.simulation.evaluate.allocated_bytes)

    @property
    def error(self) -> float:
        """Of the step's bill, as a share of the simulation."""
        return self.step.error

    @property
    def summary(self) -> str:
        fullest = max(self.simulation.forward_backward, self.simulation.optimizer, key=lambda p: p.allocated_bytes)
        evaluated = f"; of the evaluation, {_beside(self.evaluation)}" if self.evaluation else ""
        return (
            f"Simulated: {_beside(self.step)}; the allocator reserves "
            f"{fullest.reserved_expandable_bytes / GIB:.2f} GiB in expandable segments, "
            f"{fullest.reserved_native_bytes / GIB:.2f} without{evaluated}."
        )

    @property
    def objection(self) -> str | None:
        """None, or which phase the two do not agree on."""
        compared = [one for one in (self.step, self.evaluation) if one and not one.agrees]
        if not compared:
            return None
        said = " and ".join(
            f"{one.billed_bytes / GIB:.2f} GiB for {one.phase} where the simulation has "
            f"{one.simulated_bytes / GIB:.2f} ({one.error:+.1%})"
            for one in compared
        )
        return f"The bill says {said}: the installed libraries do something it does not know; plan on the larger."


def simulate_job(recipe: Recipe, source: ModelSource, plan: Plan) -> SimulateJob:
    """The job that simulates the plan's step and evaluation; raises RecipeError for a step over several GPUs."""
    if plan.step.parallel.strategy != "single" or plan.step.parallel.offload != "none":
        raise RecipeError("--simulate: one GPU's own step can be simulated, not one that is spread or offloaded.")
    tokens = plan.step.method.max_length + recipe.evaluate.max_new_tokens
    return SimulateJob(
        step=plan.step, config=source.config, evaluation_rows=plan.evaluation_rows, evaluation_tokens=tokens
    )


def _beside(one: Compared) -> str:
    simulated, billed = one.simulated_bytes / GIB, one.billed_bytes / GIB
    return f"{simulated:.2f} GiB of tensors where the bill has {billed:.2f} ({one.error:+.2%})"
