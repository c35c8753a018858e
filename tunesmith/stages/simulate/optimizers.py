"""The optimizer as transformers.Trainer makes it."""

import re
from functools import partial
from typing import Any

import bitsandbytes
import torch
from bitsandbytes.optim import GlobalOptimManager
from torch import Tensor, nn

from tunesmith.memory.step import Step
from tunesmith.stages.simulate.tracing import Tracer

_NO_DECAY = re.compile(r"bias|norm")
_PAGED_NUMEL = 100_000
"""bitsandbytes puts a state of so many numbers into unified memory, which torch's allocator does not count."""


def optimizer_of(model: nn.Module, step: Step, tracer: Tracer) -> torch.optim.Optimizer:
    """AdamW over the trained weights in Trainer's two groups; call it outside of any FakeTensorMode."""
    groups = _groups(model, step.method.weight_decay)
    if step.optimizer == "adamw_fused":
        return torch.optim.AdamW(groups, fused=True)
    if step.optimizer == "adamw_foreach":
        return torch.optim.AdamW(groups, foreach=True)
    return _in_8_bits(model, groups, tracer, is_paged=step.optimizer == "paged_adamw_8bit")


def states_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    decayed = [weight for name, weight in trained if not _NO_DECAY.search(name)]
    rest = [weight for name, weight in trained if _NO_DECAY.search(name)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _in_8_bits(
    model: nn.Module, groups: list[dict[str, Any]], tracer: Tracer, *, is_paged: bool
) -> torch.optim.Optimizer:
    """Embeddings keep states of 32 bits, as Trainer asks for."""
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW(groups, optim_bits=8)
    optimizer.fill_qmap()
    manager = GlobalOptimManager.get_instance()
    # It is one for the whole process, and would hold on to the models of earlier steps.
    manager.initialize()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})
    if is_paged:
        optimizer.get_state_buffer = partial(_paged_buffer, tracer)
    return optimizer


def _paged_buffer(tracer: Tracer, weight: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    if weight.numel() < _PAGED_NUMEL:
        return torch.zeros_like(weight, dtype=dtype)
    with tracer.blind():
        return torch.zeros_like(weight, dtype=dtype)
