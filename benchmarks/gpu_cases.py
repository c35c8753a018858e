"""The steps that benchmarks/gpu_truth.py takes on a GPU, and what the bill has for each; needs no torch."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks.real_steps import Case
from tunesmith.memory import catalogue
from tunesmith.memory.constants import CUDA_CONTEXT_BYTES
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.slack import step_slack
from tunesmith.memory.step import Step
from tunesmith.memory.training import moments, total

FORWARD_BACKWARD, OPTIMIZER = "forward_backward", "optimizer"
PHASES = (FORWARD_BACKWARD, OPTIMIZER)

QWEN_HALF, QWEN_3, QWEN_7 = "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-7B"
QWEN3_2, GEMMA_2 = "Qwen/Qwen3-1.7B", "google/gemma-2-2b"
LLAMA_3, LLAMA_8 = "meta-llama/Llama-3.2-3B", "meta-llama/Llama-3.1-8B"


class Figures(NamedTuple):
    """Bytes at the fullest moment of a phase; None where there is no such figure."""

    allocated: int
    """In tensors, as torch.cuda.max_memory_allocated counts."""
    reserved: int | None = None
    """By the caching allocator."""
    device: int | None = None
    """On the device in all, the CUDA context included."""


Phases = dict[str, Figures]
"""By one of PHASES."""


class GpuCase(NamedTuple):
    """One step to take, and the model to take it with."""

    asked: Case
    repo: str | None = None
    """Of the catalogue; None for the sizes of `asked` itself."""

    @property
    def name(self) -> str:
        model = self.repo.rpartition("/")[2] if self.repo else f"small {self.asked.kind}"
        return self.asked._replace(kind=model).name

    @property
    def step(self) -> Step:
        return self.asked.step

    @property
    def config(self) -> dict[str, Any]:
        """A config.json; raises LookupError for a repo that the catalogue does not have."""
        if self.repo is None:
            return self.asked.model_config
        found = catalogue.lookup(self.repo)
        if found is None:
            raise LookupError(f"{self.repo} is not in the catalogue: name one of tunesmith/memory/models/.")
        return {key: value for key, value in found.items() if not key.startswith("_")}

    @property
    def runs_on_cpu(self) -> bool:
        """Small, and with an optimizer that works the same on a CPU."""
        return self.repo is None and self.step.optimizer == "adamw_fused"


def _of(repo: str, method: str, arithmetic: str, **asked: Any) -> GpuCase:
    kind = GpuCase(Case("", method, arithmetic), repo).config["model_type"]
    return GpuCase(Case(kind, method, arithmetic, **asked), repo)


SMALL = tuple(
    GpuCase(case)
    for case in (
        Case("llama", "full", "fp32", length=1024),
        Case("llama", "full", "amp", checkpointing=True, tied=False, micro=2, length=1024),
        Case("llama", "full", "amp", checkpointing=True, optimizer="adamw_foreach"),
        Case("llama", "full", "amp", micro=2, optimizer="adamw_8bit"),
        Case("qwen2", "full", "bf16", attention="eager", micro=2),
        Case("qwen2", "full", "amp", micro=2, loss="chunked"),
        Case("qwen3", "lora", "amp", attention="eager", accumulates=True),
        Case("qwen3", "lora", "bf16", micro=2, train={"dropout": 0.1}),
        Case("gemma2", "lora", "amp", attention="eager", checkpointing=True, micro=2),
        Case("llama", "qlora", "amp", checkpointing=True, micro=2),
        Case("qwen2", "qlora", "amp", tied=False, length=1024, train={"targets": ("q_proj", "v_proj")}),
    )
)
LARGER = (
    _of(QWEN_HALF, "full", "amp", checkpointing=True, length=1024),
    _of(QWEN_HALF, "full", "bf16", micro=2, optimizer="paged_adamw_8bit"),
    _of(QWEN_HALF, "lora", "amp", micro=2, length=1024),
    _of(QWEN_HALF, "lora", "bf16", attention="eager", length=1024),
    _of(QWEN3_2, "full", "bf16", checkpointing=True, length=1024, optimizer="adamw_8bit"),
    _of(QWEN3_2, "lora", "amp", checkpointing=True, micro=4),
    _of(QWEN3_2, "qlora", "amp", checkpointing=True, length=2048, loss="chunked"),
    _of(GEMMA_2, "lora", "amp", attention="eager", checkpointing=True, length=1024),
    _of(LLAMA_3, "full", "bf16", checkpointing=True, length=1024, optimizer="adamw_foreach"),
    _of(LLAMA_3, "lora", "amp", length=1024),
    _of(QWEN_3, "full", "amp", checkpointing=True),
    _of(QWEN_3, "qlora", "amp", checkpointing=True, micro=2, length=1024),
    _of(QWEN_7, "full", "bf16", checkpointing=True, length=1024),
    _of(QWEN_7, "lora", "amp", checkpointing=True, length=2048),
    _of(QWEN_7, "lora", "bf16", length=1024),
    _of(QWEN_7, "qlora", "amp", checkpointing=True, micro=2, length=1024),
    _of(LLAMA_8, "lora", "amp", checkpointing=True, micro=2, length=1024, loss="chunked"),
    _of(LLAMA_8, "qlora", "amp", checkpointing=True, micro=4, optimizer="paged_adamw_8bit"),
)
CASES = SMALL + LARGER


def billed(case: GpuCase) -> Phases:
    """What the bill has for each phase: in tensors, with what the allocator reserves, which stays from phase to phase,
    and with the context.
    """
    shape = ModelShape.from_config(case.config)
    found = moments(shape, case.step)
    sizes = {name: total(items) for name, items in found.items()}
    reserved = max(sizes.values()) + step_slack(shape, case.step, found)
    optimizer = sizes.pop("optimizer")
    return {
        FORWARD_BACKWARD: Figures(max(sizes.values()), reserved, reserved + CUDA_CONTEXT_BYTES),
        OPTIMIZER: Figures(optimizer, reserved, reserved + CUDA_CONTEXT_BYTES),
    }


def needed_bytes(case: GpuCase) -> int:
    """The bill's high end: what a device must have."""
    return max(figures.device or 0 for figures in billed(case).values())


def fitting(cases: Iterable[GpuCase], limit_bytes: int) -> tuple[Sequence[GpuCase], Sequence[GpuCase]]:
    """The cases that a device of that size takes by the bill, and those that it does not."""
    taken, left = [], []
    for case in cases:
        (taken if needed_bytes(case) <= limit_bytes else left).append(case)
    return taken, left
