"""A plan in one line, with its numbers, and what of the machine it leaves idle."""

from collections.abc import Iterator

from tunesmith.memory.bill import Case, Layout, peaks
from tunesmith.memory.constants import GIB
from tunesmith.memory.said import BillItem
from tunesmith.memory.step import Step
from tunesmith.specs.hardware import HardwareSpec

_COUNTS = ("none is", "one is", "two are", "three are")


def summarize(case: Case, layout: Layout, items: tuple[BillItem, ...], budget: int, seconds: float) -> str:
    """The decision; `budget` in bytes, `seconds` what offloading adds to a step."""
    found, step = peaks(items), layout.step
    fullest = max(found, key=lambda phase: found[phase])
    elsewhere = "" if fullest == "train" else f" (fullest: {fullest}, {found[fullest] / GIB:.1f})"
    parts = [f"{case.shape.params / 1e9:.2f} B params", _precision(step)]
    parts += [f"r={step.method.rank}"] if step.method.method != "full" else []
    parts += [f"micro-batch {step.micro_batch_size} x {layout.accumulation_steps}", *_choices(step, seconds)]
    parts += _assumed(case, step)
    idle = idle_gpus(case.recipe.hardware, step, layout.device)
    return f"train: {', '.join(parts)} -> {found['train'] / GIB:.1f} of {budget / GIB:.1f} GiB{elsewhere}" + (
        f"; {idle}" if idle else ""
    )


def idle_gpus(asked: HardwareSpec, step: Step, device: str) -> str | None:
    """None, or that fewer GPUs are used than hardware.gpus asks for."""
    used = step.parallel.world_size if device == "cuda" else 0
    if asked.gpus is None or asked.gpus < 2 or used >= asked.gpus:
        return None
    return f"of {asked.gpus} GPUs asked for, {_COUNTS[used] if used < len(_COUNTS) else f'{used} are'} used"


def _assumed(case: Case, step: Step) -> Iterator[str]:
    """Where an architecture is not known: what its figures are."""
    if not case.shape.note:
        return
    finding = case.findings.of(step)
    share = "" if not finding else f"{abs(finding.ratio - 1):.1%} {'less' if finding.ratio < 1 else 'more'}"
    if finding and finding.step == step:
        yield f"{case.shape.model_type} is not a known architecture: simulated, {share} than a Llama of its sizes"
        return
    reason = f" ({case.unsimulated})" if case.unsimulated else ""
    yield f"{case.shape.note}{f' and {share}' if share else ''}, not simulated{reason}"


def _choices(step: Step, seconds: float) -> Iterator[str]:
    """What is out of the ordinary about the step."""
    if step.gradient_checkpointing:
        yield "gradient checkpointing"
    if step.loss == "chunked":
        yield "chunked loss"
    if step.optimizer != "adamw_fused":
        yield step.optimizer
    if step.parallel.strategy != "single":
        yield f"{step.parallel.strategy} over {step.parallel.world_size} GPUs"
    if step.parallel.offload != "none":
        yield f"{step.parallel.offload} offloaded (+{seconds:.1f} s a step)"


def _precision(step: Step) -> str:
    """Of the weights."""
    if step.is_nf4:
        return "nf4"
    number_bytes = step.trained_bytes if step.method.method == "full" else step.frozen_bytes
    return "fp32" if number_bytes == 4 else "bf16"
