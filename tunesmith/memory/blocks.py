"""What a step's blocks need on one GPU: what they keep for the backward pass, and beside it while one of them runs."""

from tunesmith.memory.activations import Kept, block_bytes, final_bytes, norm_bytes, routing_bytes
from tunesmith.memory.shape import Block, ModelShape
from tunesmith.memory.step import Step
from tunesmith.specs.train import Full


def kept_by(shape: ModelShape, step: Step, block: Block) -> Kept:
    """How the step trains a block."""
    adapter = None if isinstance(step.method, Full) else step.method
    return Kept(
        block=block,
        arithmetic=step.arithmetic,
        nf4=step.is_nf4,
        frozen=adapter is not None,
        adapted=shape.adapted(adapter.targets, block) if adapter else (),
        rank=adapter.rank if adapter else 0,
        dropout=bool(adapter and adapter.dropout),
        length=step.method.max_length,
        padded=step.is_padded and step.attention != "flash",
        eager=step.attention == "eager",
        adapter_bytes=4 if step.adapter_precision == "fp32" else 2,
    )


def saved_bytes(shape: ModelShape, step: Step) -> int:
    """Of all blocks, and of the norm after them with the head's input."""
    kinds = [(block.num_layers, kept_by(shape, step, block)) for block in shape.blocks]
    last = kinds[-1][1]
    if step.gradient_checkpointing:
        blocks = shape.layers * last.residual_bytes * shape.hidden
    else:
        blocks = sum(number * block_bytes(shape, kept) for number, kept in kinds)
        # The first norm reads the embedding, which has no gradient where it is frozen.
        blocks -= norm_bytes(shape.hidden) if last.frozen else 0
    return (blocks + final_bytes(shape, last)) * step.tokens


def work_bytes(shape: ModelShape, step: Step, block: Block) -> int:
    """Recomputed: all that one block keeps. Else the gradients that flow through its MLP. NF4: one layer unpacked.
    Experts: instead of that, when their backward pass begins, the gradients of their answers.
    """
    kept = kept_by(shape, step, block)
    unpacked = kept.compute_bytes * shape.largest_linear if step.is_nf4 else 0
    recomputed = block_bytes(shape, kept) if step.gradient_checkpointing else 0
    passing = 0 if step.gradient_checkpointing else kept.compute_bytes * (3 * block.ffn + 2 * shape.hidden)
    begun = recomputed + routing_bytes(block.experts, kept) if block.experts else 0
    return max(unpacked + (recomputed + passing) * step.tokens, begun * step.tokens)


def inputs_bytes(shape: ModelShape, step: Step, kept: Kept) -> int:
    """Inputs of checkpointed blocks up to the first one with experts."""
    if not step.gradient_checkpointing:
        return 0
    return (shape.dense_layers + 1) * kept.residual_bytes * shape.hidden * step.tokens
