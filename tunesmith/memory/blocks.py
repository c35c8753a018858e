"""What a step's blocks need on one GPU: what they keep for the backward pass, and beside it while one of them runs."""

from tunesmith.memory.activations import Kept, attention_kept, block_bytes, final_bytes, norm_bytes
from tunesmith.memory.backward import (
    attention_passes,
    experts_begin,
    experts_end,
    experts_pass,
    mlp_begins,
    mlp_passes,
    mlp_recomputed,
    without_experts,
)
from tunesmith.memory.experts import Experts
from tunesmith.memory.shape import Block, ModelShape
from tunesmith.memory.step import Step
from tunesmith.specs.train import Full


def kept_by(shape: ModelShape, step: Step, block: Block) -> Kept:
    """How the step trains a block."""
    adapter = None if isinstance(step.method, Full) else step.method
    return Kept(
        block=block,
        arithmetic="fp32" if step.is_nf4 and step.arithmetic == "bf16" else step.arithmetic,
        product_bytes=step.compute_bytes,
        nf4=step.is_nf4,
        frozen=adapter is not None,
        adapted=shape.adapted(adapter.targets, block) if adapter else (),
        rank=adapter.rank if adapter else 0,
        dropout=bool(adapter and adapter.dropout),
        length=step.method.max_length,
        masked=step.is_padded and step.attention != "flash",
        eager=step.attention == "eager",
        flash=step.attention == "flash",
        adapter_bytes=step.adapter_bytes,
    )


def saved_bytes(shape: ModelShape, step: Step) -> int:
    """Of all blocks, and of the norm after them with the head's input."""
    kinds = [(block.num_layers, kept_by(shape, step, block)) for block in shape.blocks]
    last = kinds[-1][1]
    if step.gradient_checkpointing:
        blocks = shape.layers * last.residual_bytes * shape.hidden + mask_bytes(shape, step)
    else:
        blocks = sum(number * block_bytes(shape, kept) for number, kept in kinds)
        blocks += _windowed(shape, step) * (
            attention_kept(shape, last._replace(masked=True)) - attention_kept(shape, last)
        )
        # The first norm reads the embedding, which has no gradient where it is frozen.
        blocks -= norm_bytes(shape.hidden) if last.frozen else 0
    return (blocks + final_bytes(shape, last)) * step.tokens


def mask_bytes(shape: ModelShape, step: Step) -> int:
    """Bytes per token of the masks that checkpointed blocks are called with: for written-out scores in the embedding's
    precision, for kernels a byte, and only where there is something to mask; one for each kind of layer.
    """
    if step.attention == "flash":
        return 0
    windowed = _windowed(shape, step)
    kinds = 2 if shape.window and shape.window.layers < shape.layers else 1
    if step.attention == "eager":
        return kinds * kept_by(shape, step, shape.blocks[0]).residual_bytes * step.method.max_length
    return (kinds if step.is_padded else min(1, windowed)) * step.method.max_length


def _windowed(shape: ModelShape, step: Step) -> int:
    """Layers that need a mask for their window though the rows are of one length."""
    if not shape.window or step.attention != "sdpa" or step.is_padded:
        return 0
    return shape.window.layers if step.method.max_length >= shape.window.tokens else 0


def work_bytes(shape: ModelShape, step: Step, block: Block) -> int:
    """At the fullest moment of a block's backward pass, beside what is saved: in its MLP or its experts, with NF4 one
    layer unpacked, or in its attention. Recomputed, all that the block keeps is there too.
    """
    kept = _most_kept(shape, step, block)
    recomputed = _recomputed(shape, step, kept)
    unpacked = kept.product_bytes * shape.largest_linear if step.is_nf4 else 0
    begun = (recomputed + mlp_begins(shape, kept)) * step.tokens + unpacked
    passing = mlp_passes(shape, kept)
    if step.gradient_checkpointing:
        passing = max(passing, mlp_recomputed(shape, kept))
    if block.experts:
        passing = max(experts_begin(shape, block.experts, kept), experts_pass(shape, block.experts, kept))
    fullest = max(begun, (recomputed + passing) * step.tokens, attention_work(shape, step, block))
    return fullest + _added_gradient(shape, step, block)


def _added_gradient(shape: ModelShape, step: Step, block: Block) -> int:
    """Where full gradients accumulate, a weight's new one is there before it is added: the largest of the block's."""
    if not isinstance(step.method, Full) or not step.accumulates:
        return 0
    experts = 2 * block.experts.num_experts * block.experts.width * shape.hidden if block.experts else 0
    return step.trained_bytes * max(experts, *(linear.weights for linear in block.linears))


def _recomputed(shape: ModelShape, step: Step, kept: Kept) -> int:
    """Bytes per token; a float32 input is the first norm's as it is, and saved already."""
    if not step.gradient_checkpointing:
        return 0
    return block_bytes(shape, kept) - (4 * shape.hidden if kept.residual_bytes == 4 else 0)


def attention_work(shape: ModelShape, step: Step, block: Block) -> int:
    """The same while its attention is gone through; where nothing is recomputed, what is saved counts the whole block
    already.
    """
    kept = _most_kept(shape, step, block)
    counted = 0 if step.gradient_checkpointing else block_bytes(shape, kept)
    return max(0, attention_passes(shape, kept) - counted) * step.tokens


def experts_work(shape: ModelShape, step: Step, block: Block, experts: Experts) -> tuple[int, int]:
    """The same when the second of the experts' products is gone through; and when both are, with what is kept of the
    rest.
    """
    kept = _most_kept(shape, step, block)
    rest = without_experts(shape, kept) if step.gradient_checkpointing else 0
    passing = experts_pass(shape, experts, kept) + _recomputed(shape, step, kept)
    return passing * step.tokens, (experts_end(experts, kept) + rest) * step.tokens


def inputs_bytes(shape: ModelShape, step: Step, block: Block, blocks: int) -> int:
    """Inputs of so many checkpointed blocks, and the masks they share."""
    if not step.gradient_checkpointing:
        return 0
    kept = kept_by(shape, step, block)
    return (blocks * kept.residual_bytes * shape.hidden + mask_bytes(shape, step)) * step.tokens


def _most_kept(shape: ModelShape, step: Step, block: Block) -> Kept:
    """Of the layer that keeps most: one with a mask, if any has."""
    kept = kept_by(shape, step, block)
    return kept._replace(masked=kept.masked or _windowed(shape, step) > 0)
