"""What one block keeps for the backward pass, in bytes per token.

Derived from the model code of transformers 5 and PEFT 0.21, and checked against what autograd keeps there, to the byte
for Llama, Qwen2, Qwen3, Mistral and Gemma. Letters: h hidden, q and k the widths of queries and keys, f FFN, a heads,
S length, r rank, b bytes of the arithmetic (2 or 4).
"""

from typing import NamedTuple

from tunesmith.memory.shape import Linear, ModelShape, Source
from tunesmith.memory.step import Arithmetic


class Kept(NamedTuple):
    """How a block is trained."""

    arithmetic: Arithmetic
    nf4: bool
    """The frozen weights are packed; their layers then answer in float32."""
    adapted: tuple[Linear, ...]
    """Linear layers with an adapter; empty for full fine-tuning."""
    rank: int
    dropout: bool
    """Adapter dropout: every target keeps an input of its own, and a mask."""
    length: int
    """Tokens per row."""
    padded: bool
    """Rows of different lengths share a batch, so there is a mask."""
    eager: bool = False
    """The scores are written out."""
    adapter_bytes: int = 4
    """Of one of the adapter's numbers."""

    @property
    def compute_bytes(self) -> int:
        return 4 if self.arithmetic == "fp32" else 2

    @property
    def residual_bytes(self) -> int:
        """Of one number between the blocks: under autocast in float32 where the embedding is."""
        return 4 if self.arithmetic == "amp" and (self.nf4 or not self.adapted) else self.compute_bytes


def block_bytes(shape: ModelShape, kept: Kept) -> int:
    """Bytes per token that a block keeps from forward to backward."""
    return _norms(shape, kept) + _attention(shape, kept) + _mlp(shape, kept) + _inputs(shape, kept)


def final_bytes(shape: ModelShape, kept: Kept) -> int:
    """Bytes per token that the last norm keeps, and the head where it is trained: its input."""
    normed = _normed_bytes(shape, kept)
    head = 0 if kept.adapted else kept.compute_bytes
    return (4 + normed + head) * shape.hidden


def _norms(shape: ModelShape, kept: Kept) -> int:
    """Input in float32 (4h) and its scale (4); where the norms train too, the normed value."""
    normed = _normed_bytes(shape, kept)
    hidden = shape.norms * ((4 + normed) * shape.hidden + 4)
    if not shape.qk_norm:
        return hidden
    heads = shape.heads + shape.kv_heads
    return hidden + heads * ((4 + normed) * shape.head_dim + 4)


def _normed_bytes(shape: ModelShape, kept: Kept) -> int:
    if kept.adapted:
        return 0
    return 4 if shape.wide_norm or kept.arithmetic == "amp" else kept.compute_bytes


def _attention(shape: ModelShape, kept: Kept) -> int:
    """Flash and SDPA: q, k, v, output, and 4a for the log-sum; with padding k and v for every head, and the mask.

    Eager scores are there in full: 4aS for the softmax in float32, and its rounded copy; capped ones 4aS more. The keys
    and values are those of every head, and no output is kept.
    """
    b, q = kept.compute_bytes, shape.q_width
    fused = b * q if shape.fused else 0
    if shape.softcap:
        return fused + 3 * b * q + 8 * shape.heads * kept.length
    if kept.eager:
        return fused + 3 * b * q + (6 if b == 2 else 4) * shape.heads * kept.length
    keys = 2 * b * q + b * kept.length if kept.padded else 2 * b * shape.kv_width
    return fused + 2 * b * q + keys + 4 * shape.heads


def _mlp(shape: ModelShape, kept: Kept) -> int:
    """Gate, its activation, and up."""
    each = 4 if kept.arithmetic == "amp" and kept.nf4 else kept.compute_bytes
    return 3 * each * shape.ffn


def _inputs(shape: ModelShape, kept: Kept) -> int:
    """What the linear layers with a gradient keep of their inputs: one tensor for all that read it, or one each."""
    if kept.adapted:
        return _adapter_inputs(shape, kept)
    each = kept.arithmetic == "amp"
    return sum(_shared(shape, kept, source, each) for source in ("attention_norm", "attention", "mlp_norm", "mlp"))


def _adapter_inputs(shape: ModelShape, kept: Kept) -> int:
    """Per target, r numbers in the adapter's arithmetic, and its input.

    PEFT casts the input to the adapter's precision for every target by itself: a copy each where the two differ; none
    where they agree, unless dropout makes one. Autocast rounds each copy to 16 bits and keeps that.
    """
    each = 2 if kept.arithmetic == "amp" else kept.adapter_bytes
    ranks = each * kept.rank * len(kept.adapted)
    if _takes_inputs_as_they_are(kept) and not kept.dropout:
        sources: set[Source] = {linear.source for linear in kept.adapted}
        return ranks + sum(_shared(shape, kept, source, each=False) for source in sources)
    copied = each + (1 if kept.dropout else 0)
    return ranks + copied * sum(linear.width_in for linear in kept.adapted)


def _takes_inputs_as_they_are(kept: Kept) -> bool:
    """Whether the adapter's precision is that of what it reads; packed layers answer in float32 under autocast."""
    wide = kept.arithmetic == "fp32" or (kept.arithmetic == "amp" and kept.nf4)
    return kept.adapter_bytes == (4 if wide else 2) and not (kept.arithmetic == "amp" and wide)


def _shared(shape: ModelShape, kept: Kept, source: Source, each: bool) -> int:
    """Bytes of the tensor `source` where its readers keep it as it is, or (`each`) a rounded copy for each of them."""
    if source == "attention" and not shape.softcap and not kept.eager:
        return 0  # The attention itself keeps its output.
    readers = [linear for linear in shape.linears if linear.source == source]
    copies = len(readers) if each and source.endswith("norm") else 1
    return copies * kept.compute_bytes * readers[0].width_in
