"""The memory of one optimizer step, at its fullest moment."""

from tunesmith.memory.activations import Kept, block_bytes
from tunesmith.memory.constants import LOSS_BYTES
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Step
from tunesmith.specs.train import Full, Train

Items = dict[str, int]
"""Bytes by item."""


def step_items(shape: ModelShape, step: Step) -> Items:
    """Bytes by item at the fullest of the step's three moments.

    The loss: everything kept for the backward pass, and the logits with their gradients. The last block: the head's
    gradient, and the block's temporaries. The first block: all gradients, and its temporaries. The optimizer, fused,
    adds nothing to the last.
    """
    kept = kept_by(shape, step)
    standing = standing_items(shape, step)
    casts = {"autocast copies of weights": _cast_bytes(shape, step)}
    saved = {_activations_name(step): _saved_bytes(shape, step, kept)}
    gradients = {"gradients": trained_params(shape, step.method) * step.trained_bytes}
    work = {"one block's temporaries": _work_bytes(shape, step, kept)}
    before = gradients if step.accumulates else {}
    moments = (
        standing | casts | saved | before | {"logits and loss": loss_bytes(shape, step)},
        standing | casts | saved | (before or _head_gradient(shape, step)) | work,
        standing | casts | gradients | work,
    )
    return max(moments, key=total)


def total(items: Items) -> int:
    return sum(items.values())


def standing_items(shape: ModelShape, step: Step) -> Items:
    """What is there all the time: weights, and AdamW's two moments per trained number in its own precision."""
    states = 2 * trained_params(shape, step.method) * step.trained_bytes
    return {**weight_items(shape, step), "optimizer states (AdamW)": states}


def weight_items(shape: ModelShape, step: Step) -> Items:
    """The weights as they stand while training, by precision."""
    trained = trained_params(shape, step.method) * step.trained_bytes
    if isinstance(step.method, Full):
        return {f"weights ({_named(step.trained_bytes)})": trained}
    if not step.is_nf4:
        return {f"weights ({_named(step.frozen_bytes)})": shape.params * step.frozen_bytes, "adapter": trained}
    rest = (shape.params - shape.linear_weights) * step.frozen_bytes
    return {"weights (nf4)": nf4_bytes(shape.linear_weights), "embedding, head, norms (fp32)": rest, "adapter": trained}


def nf4_bytes(weights: int) -> int:
    """NF4 with double quantization (arXiv 2305.14314, section 3): 4 bits, 8 per 64 weights, 32 per 16384: 4.127."""
    return weights // 2 + weights // 64 + weights // 4096


def trained_params(shape: ModelShape, method: Train) -> int:
    """Numbers the optimizer changes; of a LoRA, rank x (in + out) per adapted layer."""
    if isinstance(method, Full):
        return shape.params
    adapted = shape.adapted(method.targets)
    return shape.layers * sum(method.rank * (linear.width_in + linear.width_out) for linear in adapted)


def loss_bytes(shape: ModelShape, step: Step) -> int:
    return LOSS_BYTES[step.arithmetic] * step.tokens * shape.vocab


def kept_by(shape: ModelShape, step: Step) -> Kept:
    """How the step trains a block."""
    adapter = None if isinstance(step.method, Full) else step.method
    return Kept(
        arithmetic=step.arithmetic,
        nf4=step.is_nf4,
        adapted=shape.adapted(adapter.targets) if adapter else (),
        rank=adapter.rank if adapter else 0,
        dropout=bool(adapter and adapter.dropout),
        length=step.method.max_length,
        padded=step.is_padded,
    )


def _activations_name(step: Step) -> str:
    return "activations (checkpointed)" if step.gradient_checkpointing else "activations"


def _saved_bytes(shape: ModelShape, step: Step, kept: Kept) -> int:
    each = kept.residual_bytes * shape.hidden if step.gradient_checkpointing else block_bytes(shape, kept)
    return shape.layers * each * step.tokens


def _work_bytes(shape: ModelShape, step: Step, kept: Kept) -> int:
    """Recomputed: all that one block keeps. Else the gradients that flow through its MLP. NF4: one layer unpacked."""
    unpacked = kept.compute_bytes * shape.largest_linear if step.is_nf4 else 0
    if step.gradient_checkpointing:
        return unpacked + block_bytes(shape, kept) * step.tokens
    return unpacked + kept.compute_bytes * (3 * shape.ffn + 2 * shape.hidden) * step.tokens


def _head_gradient(shape: ModelShape, step: Step) -> Items:
    if not isinstance(step.method, Full):
        return {}
    return {"gradients": shape.embedding_params * step.trained_bytes}


def _cast_bytes(shape: ModelShape, step: Step) -> int:
    """16-bit copies that autocast makes of float32 weights and that the backward pass needs."""
    if step.arithmetic != "amp":
        return 0
    if isinstance(step.method, Full):
        return 2 * (shape.linear_weights + shape.embedding_params)
    head = shape.embedding_params if step.is_nf4 else 0
    return 2 * (trained_params(shape, step.method) + head)


def _named(number_bytes: int) -> str:
    return "fp32" if number_bytes == 4 else "bf16"
