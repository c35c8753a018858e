"""The bill held against a simulation of the very step it is for."""

from typing import NamedTuple

from tunesmith.artifacts import ModelSource, Plan, Simulation
from tunesmith.errors import RecipeError
from tunesmith.jobs import SimulateJob
from tunesmith.memory.constants import GIB
from tunesmith.specs.recipe import Recipe

TOLERANCE = 0.03
"""Share by which the two may differ before one of them is wrong about the installed libraries."""


class Confirmation(NamedTuple):
    billed_bytes: int
    """What the tensors of a training step take, by the bill."""
    simulation: Simulation

    @property
    def simulated_bytes(self) -> int:
        return max(self.simulation.forward_backward.allocated_bytes, self.simulation.optimizer.allocated_bytes)

    @property
    def error(self) -> float:
        """Of the bill, as a share of the simulation."""
        return self.billed_bytes / self.simulated_bytes - 1

    @property
    def summary(self) -> str:
        fullest = max(self.simulation.forward_backward, self.simulation.optimizer, key=lambda p: p.allocated_bytes)
        return (
            f"Simulated: {self.simulated_bytes / GIB:.2f} GiB of tensors where the bill has "
            f"{self.billed_bytes / GIB:.2f} ({self.error:+.2%}); the allocator reserves "
            f"{fullest.reserved_expandable_bytes / GIB:.2f} GiB in expandable segments, "
            f"{fullest.reserved_native_bytes / GIB:.2f} without."
        )

    @property
    def objection(self) -> str | None:
        """None, or that the two do not agree."""
        if abs(self.billed_bytes - self.simulated_bytes) <= round(TOLERANCE * self.simulated_bytes):
            return None
        return (
            f"The bill says {self.billed_bytes / GIB:.2f} GiB and the simulation {self.simulated_bytes / GIB:.2f}, "
            f"{self.error:+.1%}: the installed libraries do something the bill does not know; plan on the larger."
        )


def simulate_job(recipe: Recipe, source: ModelSource, plan: Plan) -> SimulateJob:
    """The job that simulates the plan's step and evaluation; raises RecipeError for a step over several GPUs."""
    if plan.step.parallel.strategy != "single" or plan.step.parallel.offload != "none":
        raise RecipeError("--simulate: one GPU's own step can be simulated, not one that is spread or offloaded.")
    tokens = recipe.train.max_length + recipe.evaluate.max_new_tokens
    return SimulateJob(
        step=plan.step, config=source.config, evaluation_rows=recipe.evaluate.batch_size, evaluation_tokens=tokens
    )
