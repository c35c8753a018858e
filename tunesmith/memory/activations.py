"""What one block keeps for the backward pass, in bytes per token.

Derived from the model code of transformers 5 and PEFT 0.21, and checked against what autograd keeps there, to the byte
for Llama, Qwen2, Qwen3, Mistral and Gemma. Letters: h hidden, q and k the widths of queries and keys, f FFN, a heads,
S length, r rank, b bytes of the arithmetic (2 or 4).
"""

from typing import NamedTuple

from tunesmith.memory.experts import Experts
from tunesmith.memory.shape import Block, Latent, Linear, ModelShape, Source
from tunesmith.memory.step import Arithmetic


class Kept(NamedTuple):
    """How a block is trained."""

    block: Block
    arithmetic: Arithmetic
    """Of the activations: where packed weights train in 16 bits throughout, the embedding and the norms are still
    float32, and so is what flows between them."""
    product_bytes: int
    """Of one number that enters a product of matrices."""
    nf4: bool
    """The frozen weights are packed; their layers then answer in float32."""
    frozen: bool
    """All but adapters."""
    adapted: tuple[Linear, ...]
    """Linear layers with an adapter; none in full fine-tuning."""
    rank: int
    dropout: bool
    """Adapter dropout: every target keeps an input of its own, and a mask."""
    length: int
    """Tokens per row."""
    masked: bool
    """There is a mask: rows of different lengths share a batch, or a window is no longer than the rows."""
    eager: bool = False
    """The scores are written out."""
    flash: bool = False
    """The flash-attention library computes them, which knows 16 bits only."""
    adapter_bytes: int = 4
    """Of one of the adapter's numbers."""

    @property
    def compute_bytes(self) -> int:
        return 4 if self.arithmetic == "fp32" else 2

    @property
    def attention_bytes(self) -> int:
        """Of one query, key or value."""
        return 2 if self.flash else self.compute_bytes

    @property
    def expert_bytes(self) -> int:
        """Of one number that routed experts answer."""
        return 4 if self.arithmetic == "amp" and not self.frozen else self.product_bytes

    @property
    def packed_bytes(self) -> int:
        """Of one number that a linear layer answers; packed ones do so in float32 under autocast."""
        return 4 if self.arithmetic == "amp" and self.nf4 else self.compute_bytes

    @property
    def residual_bytes(self) -> int:
        """Of one number between the blocks: under autocast in float32 where the embedding is."""
        return 4 if self.arithmetic == "amp" and (self.nf4 or not self.frozen) else self.compute_bytes


def block_bytes(shape: ModelShape, kept: Kept) -> int:
    """Bytes per token that a block keeps from forward to backward."""
    attention = attention_kept(shape, kept)
    experts = _experts(kept.block.experts, kept) if kept.block.experts else 0
    return _norms(shape, kept) + attention + mlp_kept(kept) + experts + inputs_kept(shape, kept)


def final_bytes(shape: ModelShape, kept: Kept) -> int:
    """Bytes per token that the last norm keeps, and the head where it is trained: its input."""
    normed = _normed_bytes(shape, kept)
    head = 0 if kept.frozen else kept.compute_bytes
    return (4 + normed + head) * shape.hidden


def _norms(shape: ModelShape, kept: Kept) -> int:
    return shape.norms * norm_kept(shape, kept, shape.hidden) + inner_norms(shape, kept)


def norm_kept(shape: ModelShape, kept: Kept, width: int) -> int:
    """Bytes per token of a norm between the blocks' parts; where it trains, the normed value too."""
    return norm_bytes(width) + _normed_bytes(shape, kept) * width


def inner_norms(shape: ModelShape, kept: Kept) -> int:
    """Of the norms within the attention, whose input is a linear layer's answer."""
    normed = 0 if kept.frozen else (4 if shape.wide_norm else kept.compute_bytes)
    heads = [shape.head_dim] * (shape.heads + shape.kv_heads) if shape.qk_norm else []
    latent = [shape.latent.rank, shape.latent.query_rank or 0] if shape.latent else []
    return sum(norm_bytes(width) + normed * width for width in heads + latent)


def norm_bytes(width: int) -> int:
    """Bytes per token: its input in float32 and its scale."""
    return 4 * width + 4


def _normed_bytes(shape: ModelShape, kept: Kept) -> int:
    if kept.frozen:
        return 0
    return 4 if shape.wide_norm or kept.arithmetic == "amp" else kept.compute_bytes


def attention_kept(shape: ModelShape, kept: Kept) -> int:
    return _latent_attention(shape, kept, shape.latent) if shape.latent else _attention(shape, kept)


def _attention(shape: ModelShape, kept: Kept) -> int:
    """Flash and SDPA: q, k, v, output, and 4a for the log-sum; with a mask, and that, k and v for every head, as for a
    GPU's float32.

    Eager scores are there in full: 4aS for the softmax in float32, and its rounded copy; capped ones 4aS more. The keys
    and values are those of every head, and no output is kept.
    """
    b, q = kept.attention_bytes, shape.q_width
    fused = b * q if shape.fused else 0
    if shape.softcap:
        return fused + 3 * b * q + 8 * shape.heads * kept.length
    if kept.eager:
        return fused + 3 * b * q + (6 if b == 2 else 4) * shape.heads * kept.length
    mask = b * kept.length if kept.masked else 0
    keys = 2 * b * (q if kept.masked or (b == 4 and kept.product_bytes == 2) else shape.kv_width)
    return fused + 2 * b * q + keys + mask + 4 * shape.heads


def _latent_attention(shape: ModelShape, kept: Kept, latent: Latent) -> int:
    """Queries and keys are put together anew; values stay where the layer that makes them and the keys left both,
    unless autocast rounds a packed layer's answer. Kernels of two widths: memory-efficient ones.
    """
    b, value = kept.attention_bytes, shape.heads * latent.value
    both = value if kept.arithmetic == "amp" and kept.nf4 else value + shape.heads * latent.plain
    if kept.eager:
        return b * (2 * shape.q_width + both) + (6 if b == 2 else 4) * shape.heads * kept.length
    mask = b * kept.length if kept.masked else 0
    return b * (2 * shape.q_width + both + value) + mask + 4 * shape.heads


def mlp_kept(kept: Kept) -> int:
    """Gate, its activation, and up."""
    return 3 * kept.packed_bytes * kept.block.ffn


def _experts(experts: Experts, kept: Kept) -> int:
    """Of routed experts in one product (`grouped_mm_experts_forward` of transformers 5), where each token is there once
    for each of its experts: gate and up together, the activation, and the answer before it is weighed; where they are
    trained, the inputs of both products. The product ignores autocast: its numbers are of the weights' precision.

    The router: its scores in float32, and per choice four orders of 8 bytes and a weight. A shared expert that is
    weighed keeps its answer.
    """
    each = kept.expert_bytes
    inputs = 0 if kept.frozen else experts.hidden + experts.width
    chosen = each * (3 * experts.width + experts.hidden + inputs) + 4 * 8 + each
    weighed = kept.packed_bytes * (experts.hidden + 1) if experts.shared_gate else 0
    return experts.per_token * chosen + 4 * experts.num_experts + weighed


def reading(kept: Kept, *sources: Source) -> Kept:
    """The same block with no more than the linear layers that read `sources`."""
    read = tuple(linear for linear in kept.block.linears if linear.source in sources)
    adapted = tuple(linear for linear in kept.adapted if linear.source in sources)
    return kept._replace(block=kept.block._replace(linears=read, experts=None), adapted=adapted)


def inputs_kept(shape: ModelShape, kept: Kept) -> int:
    """What the linear layers with a gradient keep of their inputs: one tensor for all that read it, or one each."""
    if kept.frozen:
        return _adapter_inputs(shape, kept)
    each = kept.arithmetic == "amp"
    sources = dict.fromkeys(linear.source for linear in kept.block.linears)
    router = kept.compute_bytes * shape.hidden if kept.block.experts else 0
    return router + sum(_shared(shape, kept, source, each) for source in sources)


def _adapter_inputs(shape: ModelShape, kept: Kept) -> int:
    """Per target, r numbers in the adapter's arithmetic, and its input.

    PEFT casts the input to the adapter's precision for every target by itself: a copy each where the two differ; none
    where they agree, unless dropout makes one. Autocast rounds each copy to 16 bits and keeps that.
    """
    each = 2 if kept.arithmetic == "amp" else kept.adapter_bytes
    ranks = each * kept.rank * len(kept.adapted)
    if takes_inputs_as_they_are(kept) and not kept.dropout:
        sources: set[Source] = {linear.source for linear in kept.adapted}
        return ranks + sum(_shared(shape, kept, source, each=False) for source in sources)
    copied = each + (1 if kept.dropout else 0)
    return ranks + copied * sum(linear.width_in for linear in kept.adapted if not _is_there(shape, kept, linear))


def _is_there(shape: ModelShape, kept: Kept, linear: Linear) -> bool:
    """Whether the layer's adapter keeps what the attention keeps anyway: packed layers do not cast under autocast
    (PEFT's tuners/lora/bnb.py), and the attention answers in 16 bits there.
    """
    as_it_is = kept.nf4 and kept.arithmetic == "amp" and not kept.dropout
    return as_it_is and linear.source == "attention" and not (shape.softcap or kept.eager)


def takes_inputs_as_they_are(kept: Kept) -> bool:
    """Whether the adapter's precision is that of what it reads; packed layers answer in float32 under autocast."""
    wide = kept.arithmetic == "fp32" or (kept.arithmetic == "amp" and kept.nf4)
    return kept.adapter_bytes == (4 if wide else 2) and not (kept.arithmetic == "amp" and wide)


def _shared(shape: ModelShape, kept: Kept, source: Source, each: bool) -> int:
    """Bytes of the tensor `source` where its readers keep it as it is, or (`each`) a rounded copy for each of them."""
    is_there = not shape.softcap and not kept.eager and kept.attention_bytes == kept.compute_bytes
    if source == "attention" and is_there:
        return 0  # The attention itself keeps its output.
    readers = [linear for linear in kept.block.linears if linear.source == source]
    copies = len(readers) if each and source not in ("attention", "mlp") else 1
    return copies * kept.compute_bytes * readers[0].width_in
