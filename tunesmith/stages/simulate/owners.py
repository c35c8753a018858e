"""Whose every block is: weights, gradients, optimizer states, activations by module, temporaries by operator."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from tunesmith.stages.simulate.tracing import BLOCK, NOWHERE, Block, Place, Tracer

WEIGHTS, ADAPTER, GRADIENTS, STATES = "weights", "adapter", "gradients", "optimizer states"
COPIES, LOSS, BATCH, CACHE = "autocast copies of weights", "logits and loss", "batch", "KV cache"
TEMPORARIES = "temporaries of "

_KINDS = (
    ("attn", "attention"),
    ("attention", "attention"),
    ("mlp", "MLP"),
    ("feed_forward", "MLP"),
    ("rotary", "rotary embedding"),
    ("embed", "embedding"),
    ("head", "head"),
)
"""Part of a module's name, and what it is; the first that matches."""


def name_weights(model: nn.Module, tracer: Tracer) -> dict[int, str]:
    """The blocks the model stands on: its weights, with what packed ones come with, its buffers, its adapter."""
    standing = dict.fromkeys(tracer.alive(), WEIGHTS)
    adapter = (weight for name, weight in model.named_parameters() if "lora_" in name)
    return standing | claimed(adapter, ADAPTER, tracer)


def claimed(tensors: Iterable[Tensor | None], owner: str, tracer: Tracer) -> dict[int, str]:
    """The blocks of those tensors, as `owner`'s."""
    numbers = (tracer.block_of(tensor) for tensor in tensors if tensor is not None)
    return {number: owner for number in numbers if number is not None}


def named(blocks: list[Block], owners: dict[int, str], vocab: int) -> list[str]:
    """An owner for every block: the one in `owners`, or whose its making tells it to be."""
    return [owners.get(number) or _by_origin(block, owners, vocab) for number, block in enumerate(blocks)]


def _by_origin(block: Block, owners: dict[int, str], vocab: int) -> str:
    if block.source is not None and owners.get(block.source) in (WEIGHTS, ADAPTER):
        return COPIES
    if block.moment in ("forward", "backward") and _is_logits(block, vocab):
        return LOSS
    if block.moment == "forward" and block.place is NOWHERE:
        return BATCH
    if block.moment in ("load", "optimizer") or block.place is NOWHERE:
        return TEMPORARIES + block.op
    kind = "adapters" if block.place.is_adapted and block.op == "_to_copy" else block.place.kind
    return f"{'activations' if block.moment == 'forward' else 'recomputed'} {kind}"


def _is_logits(block: Block, vocab: int) -> bool:
    """As wide as the vocabulary, and not the head's gradient, which is (hidden, vocabulary) and a plain product."""
    is_gradient = block.moment == "backward" and block.place is NOWHERE and block.op == "mm"
    return len(block.shape) > 1 and block.shape[-1] == vocab and not is_gradient


@contextmanager
def following(model: nn.Module, tracer: Tracer) -> Iterator[None]:
    """Within, the tracer knows which module is at work, in the forward pass and when it is run again."""
    places = {module: _place(name, module) for name, module in model.named_modules()}
    stack: list[Place] = []

    def entered(module: nn.Module, inputs: Any) -> None:
        stack.append(tracer.place)
        tracer.place = places.get(module, tracer.place)

    def left(module: nn.Module, inputs: Any, output: Any) -> None:
        tracer.place = stack.pop()

    # `always_call`: checkpointing ends a second pass early, by an exception.
    hooks = (
        register_module_forward_pre_hook(entered),
        register_module_forward_hook(left, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        tracer.place = NOWHERE


def _place(name: str, module: nn.Module) -> Place:
    parts = name.split(".")
    if "norm" in parts[-1]:
        return Place("norms")
    if any(part.startswith("lora_") for part in parts):
        return Place("adapters")
    if parts[-1].isdigit():
        return BLOCK
    kinds = (kind for word, kind in _KINDS if any(word in part for part in parts))
    return Place(next(kinds, "other"), is_adapted=hasattr(module, "lora_A"))
