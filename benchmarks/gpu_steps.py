"""One step of benchmarks/gpu_truth.py, taken or simulated; runs in the train environment, a process for each.

`python benchmarks/gpu_steps.py measure|simulate JSON` prints a JSON object of bytes as its last line.

The model goes the train stage's own way, `load_model` from a folder to transformers.Trainer, for what lies beside the
weights in the allocator (packed states, float32 norms, an adapter) depends on it. The folder's weight file is hollow:
a header, and behind it a hole that reads as zeros and takes no room on the disk, so that 8 billion weights are there
at once. When the trainer has placed them on the device they are filled with random numbers where they lie.
"""

import gc
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import memory_truth
from benchmarks.gpu_cases import FORWARD_BACKWARD, OPTIMIZER, PHASES, Figures, Phases
from benchmarks.gpu_constants import workspaces
from benchmarks.gpu_device import used_bytes
from benchmarks.real_steps import plan_of, rows_of
from tunesmith.artifacts import Plan
from tunesmith.memory.step import Step

Device = Literal["cuda", "cpu"]
_SPREAD = 0.02
"""Standard deviation of the random weights."""


def measured(config: Mapping[str, Any], step: Step, device: Device) -> dict[str, Any]:
    """The peaks of the second step by phase, and what cuBLAS holds, bytes."""
    # bitsandbytes may make a CUDA context when it is imported.
    before = used_bytes() if device == "cuda" else None
    from tunesmith.stages import lean  # noqa: F401  # isort: skip
    from tunesmith.stages.train.trainer import settle

    plan = plan_of(step, device)
    settle(0, plan)
    workspace = _workspace_bytes() if device == "cuda" else 0
    with loaded(config, plan) as model, tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(model, plan, folder)
        randomize(model)
        # What loading left behind must not end, and be counted, in a step.
        gc.collect()
        phases = _peaks_on_cuda(trainer, before) if device == "cuda" else _peaks_on_cpu(trainer)
    return {"phases": phases, "workspace": workspace}


def simulated(config: Mapping[str, Any], step: Step, device: Device) -> dict[str, Any]:
    """The same of the simulation with that device's kernels; reserved is with expandable segments."""
    from tunesmith.stages import lean  # noqa: F401  # isort: skip
    import torch

    from tunesmith.stages.simulate.record import record_step
    from tunesmith.stages.simulate.report import peaks

    torch.set_num_threads(1)
    found = peaks(record_step(config, step, device), PHASES)
    phases = {phase: Figures(one.allocated_bytes, one.reserved_expandable_bytes) for phase, one in found.items()}
    return {"phases": phases}


@contextmanager
def loaded(config: Mapping[str, Any], plan: Plan) -> Iterator[Any]:
    """A model of that configuration with weights of zero, loaded as the train stage does."""
    from tunesmith.stages.train.model import load_model

    with tempfile.TemporaryDirectory() as folder:
        write_hollow(config, Path(folder))
        yield load_model(Path(folder), plan.step.method, plan)


def write_hollow(config: Mapping[str, Any], folder: Path) -> None:
    """config.json, and a safetensors file of zeros in bfloat16 that is a hole but for its header."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    parsed = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    parsed.save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(parsed)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, weight in model.named_parameters():
        begin, end = end, end + 2 * weight.numel()
        header[name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def trainer_of(model: Any, plan: Plan, folder: str) -> Any:
    """As the train stage makes it, but for the checkpoint at the end."""
    from transformers import Trainer
    from transformers.trainer_callback import PrinterCallback
    from transformers.trainer_utils import SaveStrategy

    from tunesmith.stages.train.data import Collator
    from tunesmith.stages.train.loss import ChunkedLoss
    from tunesmith.stages.train.trainer import training_arguments

    step = plan.step
    loss = ChunkedLoss(model, step.arithmetic == "amp") if step.loss == "chunked" else None
    arguments = training_arguments(step.method, plan, Path(folder))
    arguments.save_strategy = SaveStrategy.NO
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows_of(step), data_collator=Collator(0), compute_loss_func=loss
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def randomize(model: Any) -> None:
    """Random matrices, packed ones too, and vectors of ones, each where it lies."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            if (state := getattr(weight, "quant_state", None)) is not None:
                weight.random_(0, 256)
                state.offset.fill_(_SPREAD)
            elif weight.dim() > 1:
                weight.normal_(std=_SPREAD)
            else:
                weight.fill_(1.0)


def _peaks_on_cuda(trainer: Any, before: int | None) -> Phases:
    found: Phases = {}
    trainer.add_callback(_reading(found, before))
    trainer.train()
    return found


def _reading(found: Phases, before: int | None) -> Any:
    """A callback that writes into `found` what torch and the driver say at the end of each phase of the last step.

    The allocator gives nothing back to the device within a step, so the device is then as full as it was.
    """
    import torch
    from transformers import TrainerCallback

    def read(phase: str) -> None:
        torch.cuda.synchronize()
        now = used_bytes()
        device = None if now is None or before is None else now - before
        found[phase] = Figures(torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), device)
        torch.cuda.reset_peak_memory_stats()

    class Reading(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            torch.cuda.reset_peak_memory_stats()

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            read(FORWARD_BACKWARD)

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            read(OPTIMIZER)

    return Reading()


def _workspace_bytes() -> int:
    """What torch's allocator comes to hold for cuBLAS: from the first products on, for as long as the process lives."""
    import torch

    return sum(sum(workspaces(dtype).values()) for dtype in (torch.float32, torch.bfloat16))


def _peaks_on_cpu(trainer: Any) -> Phases:
    """By the CPU allocator's events, as memory_truth.py does it."""
    from torch.profiler import ProfilerActivity, profile

    trainer.add_callback(memory_truth._marking())
    standing = sum(memory_truth._storages(trainer.model).values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer.train()
    peaks = memory_truth._highest(standing, profiler.profiler.kineto_results.events())
    return {FORWARD_BACKWARD: Figures(peaks.forward_backward), OPTIMIZER: Figures(peaks.optimizer)}


_VERBS: dict[str, Callable[[Mapping[str, Any], Step, Device], dict[str, Any]]] = {
    "measure": measured,
    "simulate": simulated,
}


def main() -> None:
    asked = json.loads(sys.argv[2])
    print(json.dumps(_VERBS[sys.argv[1]](asked["config"], Step.model_validate(asked["step"]), asked["device"])))


if __name__ == "__main__":
    main()
