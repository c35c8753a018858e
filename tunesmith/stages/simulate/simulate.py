"""Simulation: an optimizer step run on tensors that have a size and no memory, and everything it allocates counted.

What the bill computes by formula is found here by running the model's own code, so it holds for the versions that are
installed. Float32 is how a CPU trains, and is followed with a CPU's kernels; all else with a GPU's.
"""

from tunesmith.stages import lean  # noqa: F401  # isort: skip

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
import transformers
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from tunesmith import worker
from tunesmith.artifacts import Simulation
from tunesmith.errors import ModelError
from tunesmith.jobs import SimulateJob
from tunesmith.memory.constants import GIB
from tunesmith.memory.said import SimulatedPeak
from tunesmith.stages.simulate.kernels import Kernels
from tunesmith.stages.simulate.record import record_evaluations, record_step
from tunesmith.stages.simulate.report import Recording, peaks, timeline
from tunesmith.stages.simulate.step import EVALUATE, FORWARD_BACKWARD, OPTIMIZER
from tunesmith.worker import Made, Room

_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


def simulate(job: SimulateJob, room: Room) -> Made:
    """The peaks of the second step by owner, and of one batch of evaluation.

    Raises ModelError for a configuration that transformers refuses or whose step depends on the numbers in it, and
    RecipeError for targets the model does not have.
    """
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    kernels: Kernels = "cpu" if job.step.arithmetic == "fp32" else "cuda"
    with _refusing(job.config):
        training = record_step(job.config, job.step, kernels)
        evaluations = _evaluations(job, kernels)
    found = peaks(training, (FORWARD_BACKWARD, OPTIMIZER))
    simulation = Simulation(
        fingerprint=job.fingerprint,
        forward_backward=found[FORWARD_BACKWARD],
        optimizer=found[OPTIMIZER],
        evaluate=max((peaks(one, (EVALUATE,))[EVALUATE] for one in evaluations), key=_allocated, default=None),
        timeline=timeline(training, (FORWARD_BACKWARD, OPTIMIZER)),
        events=sum(len(one.stream) for one in (training, *evaluations)),
        versions={name: version(name) for name in _LIBRARIES},
    )
    print(_said(job, simulation), flush=True)
    return Made(simulation)


def _evaluations(job: SimulateJob, kernels: Kernels) -> tuple[Recording, ...]:
    if not job.evaluation_rows or not job.evaluation_tokens:
        return ()
    return tuple(record_evaluations(job.config, job.step, kernels, job.evaluation_rows, job.evaluation_tokens))


@contextmanager
def _refusing(config: dict[str, Any]) -> Iterator[None]:
    kind = config.get("model_type")
    try:
        yield
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ModelError(
            f"What {kind} allocates depends on its input ({error}), as where tokens choose their experts: "
            "it cannot be simulated, so rely on the estimate."
        ) from error
    except RuntimeError as error:
        raise ModelError(
            f"transformers' {kind} does not run with this config.json ({str(error).splitlines()[0]}): "
            "fetch the model's own file again."
        ) from error


def _said(job: SimulateJob, simulation: Simulation) -> str:
    step, fullest = job.step, max(simulation.forward_backward, simulation.optimizer, key=_allocated)
    asked = f"{step.method.method} of {job.config.get('model_type')}, {step.arithmetic}"
    return (
        f"simulate: {asked}, {step.micro_batch_size} x {step.method.max_length} tokens -> "
        f"{fullest.allocated_bytes / GIB:.3f} GiB allocated, {fullest.reserved_native_bytes / GIB:.3f} reserved, "
        f"{fullest.reserved_expandable_bytes / GIB:.3f} in expandable segments"
    )


def _allocated(peak: SimulatedPeak) -> int:
    return peak.allocated_bytes


if __name__ == "__main__":
    worker.main(simulate)
