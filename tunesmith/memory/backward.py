"""What passes through a block's backward pass beside what the block keeps, in bytes per token; letters as there."""

from tunesmith.memory.activations import (
    Kept,
    attention_kept,
    block_bytes,
    inner_norms,
    inputs_kept,
    mlp_kept,
    norm_kept,
    reading,
    takes_inputs_as_they_are,
)
from tunesmith.memory.experts import Experts
from tunesmith.memory.shape import ModelShape


def mlp_recomputed(shape: ModelShape, kept: Kept) -> int:
    """When the block has just been run again, what its last adapter reads is still there: the product, where it is not
    kept itself, and its copy in the adapter's precision, where what is kept is made from that.
    """
    if not any(linear.source == "mlp" for linear in kept.adapted):
        return 0
    as_it_is = takes_inputs_as_they_are(kept)
    product = 0 if as_it_is and not kept.dropout else kept.packed_bytes
    is_kept = kept.arithmetic != "amp" and not kept.dropout
    copied = 0 if as_it_is or is_kept else kept.adapter_bytes
    return (product + copied) * kept.block.ffn + 2 * kept.residual_bytes * shape.hidden


def mlp_begins(shape: ModelShape, kept: Kept) -> int:
    """The gradient of the last layer's input, by an adapter too, when that input is let go of; and the block's."""
    adapted = any(linear.source == "mlp" for linear in kept.adapted)
    made = (2 if adapted else 1) * kept.packed_bytes * kept.block.ffn
    return made + kept.residual_bytes * shape.hidden - inputs_kept(shape, reading(kept, "mlp"))


def mlp_passes(shape: ModelShape, kept: Kept) -> int:
    """Later: the gradients of the product, of the activation and of up."""
    three = 3 * kept.packed_bytes * kept.block.ffn
    return three + 2 * kept.residual_bytes * shape.hidden - inputs_kept(shape, reading(kept, "mlp"))


def experts_begin(shape: ModelShape, experts: Experts, kept: Kept) -> int:
    """Three gradients of the weighed answers, the second and third to undo their order; or, when the block has just
    been recomputed, one of them, the answers, and the chosen inputs. A shared expert that ran after them is done with.
    """
    weighed = 4 if experts.weighs_in_float32 else kept.expert_bytes
    chosen = kept.residual_bytes if kept.frozen else 0
    passing = experts.per_token * experts.hidden * max(3 * weighed, 2 * weighed + chosen)
    return passing + kept.residual_bytes * shape.hidden - _shared_first(experts, kept)


def experts_pass(shape: ModelShape, experts: Experts, kept: Kept) -> int:
    """Later, without the answers: the gradients of product, activation and up."""
    freed = experts.hidden + (0 if kept.frozen else experts.width)
    passing = experts.per_token * kept.expert_bytes * (3 * experts.width - freed)
    return passing + kept.residual_bytes * shape.hidden - _shared_first(experts, kept)


def _shared_first(experts: Experts, kept: Kept) -> int:
    return 0 if experts.shared_gate else mlp_kept(kept)


def experts_end(experts: Experts, kept: Kept) -> int:
    """The gradients of gate and up together, and of their input."""
    return experts.per_token * kept.expert_bytes * (2 * experts.width + experts.hidden)


def attention_passes(shape: ModelShape, kept: Kept) -> int:
    """All there is while a block's attention is gone through, its MLP being done with.

    Written-out scores are there three times in float32: the softmax, its gradient, and the scores' own; capped ones
    beside them. Kernels have the gradients of queries, keys and values, of all heads, and sum up in float32.
    """
    b, scores = kept.attention_bytes, shape.heads * kept.length
    if kept.eager or shape.softcap:
        passing = 3 * b * shape.q_width + (12 + b * shape.softcap) * scores
    else:
        passing = attention_kept(shape, kept) + (4 * b + 4) * shape.q_width
    norms = norm_kept(shape, kept, shape.hidden) + inner_norms(shape, kept)
    inputs = inputs_kept(shape, reading(kept, "attention_norm", "query_latent", "kv_latent"))
    return norms + passing + inputs + 2 * kept.residual_bytes * shape.hidden


def without_experts(shape: ModelShape, kept: Kept) -> int:
    """What the block keeps but for its routed experts."""
    return block_bytes(shape, kept._replace(block=kept.block._replace(experts=None)))
