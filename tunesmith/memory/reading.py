"""What one block has alive at once where nothing is kept for a backward pass, in bytes.

Read off the model classes of transformers 5, PEFT 0.21 and torch's attention kernels, moment by moment, and checked
against the simulation. Letters: h hidden, q and k the widths of queries and keys, f the MLP's width, a heads, S columns
of a batch, b bytes of the arithmetic (2 on a GPU, 4 on a CPU).
"""

from collections.abc import Iterator
from typing import NamedTuple

from tunesmith.memory.experts import Experts
from tunesmith.memory.linears import Latent, Linear
from tunesmith.memory.shape import Block, ModelShape

_ABSMAX = 16
"""Weights per byte of NF4's block maxima, unpacked to float32 beside the layer: 4 bytes for each 64."""


class Reading(NamedTuple):
    """How a batch is read."""

    rows: int
    columns: int
    number_bytes: int
    adapted: tuple[str, ...] = ()
    """Names of the linear layers with an adapter, which is in float32."""
    packed: bool = False
    """Linear layers are NF4, and are unpacked one by one."""

    @property
    def tokens(self) -> int:
        return self.rows * self.columns


def block_bytes(shape: ModelShape, block: Block, reading: Reading) -> int:
    """At the block's fullest moment, mask, cache and weights aside.

    The embedding, the block's input and a normed copy are there all along; in the MLP the residual too, and the scores
    that were written out.
    """
    hidden = reading.number_bytes * reading.tokens * shape.hidden
    attention, mlp = max(_attention(shape, block, reading)), max(_mlp(shape, block, reading))
    return 3 * hidden + max(attention, hidden + _written(shape, reading) + mlp)


def mask_bytes(shape: ModelShape, reading: Reading) -> int:
    """One byte for every pair of columns, or a number where scores are written out; twice where only some layers have a
    window.
    """
    mixed = shape.window is not None and shape.window.layers < shape.layers
    each = reading.number_bytes if shape.softcap else 1
    return (2 if mixed else 1) * each * reading.tokens * reading.columns


def _attention(shape: ModelShape, block: Block, reading: Reading) -> Iterator[int]:
    """Moment by moment: the projections, their norms, the rotation, the kernel, the output's projection."""
    number = reading.number_bytes * reading.tokens
    if shape.latent:
        yield number * _expanded(shape, shape.latent) + _scores(shape, reading)
        return
    raw, q = shape.q_width + 2 * shape.kv_width, shape.q_width
    done = 0
    for linear in (linear for linear in block.linears if linear.source == "attention_norm"):
        yield number * done + _layer(linear, reading)
        done += linear.width_out
    if shape.qk_norm:
        # Two in float32 beside the raw queries, which in float32 are one of them.
        yield number * q + (8 if reading.number_bytes == 2 else 4) * reading.tokens * q
    yield number * (raw + 3 * q)
    kept = number * ((raw if shape.fused else 0) + q)
    repeated = number * 2 * q if shape.kv_heads < shape.heads else 0
    yield kept + repeated + _scores(shape, reading)
    leaving = sum(_layer(linear, reading) for linear in block.linears if linear.source == "attention")
    yield kept + _written(shape, reading) + number * q + leaving


def _scores(shape: ModelShape, reading: Reading) -> int:
    """The kernel's: the mask as numbers, made anew in every layer, and the output.

    A GPU's memory-efficient kernel takes a mask of 2 bytes, which is made with its negation (1) beside it; a CPU's one
    of 4. Scores that are written out, as a CPU does for values not as wide as keys, are there rounded, in float32, and
    as the softmax of that: 10aS, on a CPU 8aS.
    """
    pairs, output = reading.tokens * reading.columns, reading.number_bytes * reading.tokens * _value_width(shape)
    is_gpu = reading.number_bytes == 2
    if shape.softcap or (shape.latent and not is_gpu):
        return (10 if is_gpu else 8) * shape.heads * pairs
    logs = 4 * shape.heads * reading.tokens
    return max(3 * pairs, 2 * pairs + output + logs) if is_gpu else 4 * pairs + output + logs


def _written(shape: ModelShape, reading: Reading) -> int:
    """The scores, which the block holds on to."""
    return reading.number_bytes * shape.heads * reading.tokens * reading.columns if shape.softcap else 0


def _value_width(shape: ModelShape) -> int:
    return shape.heads * shape.latent.value if shape.latent else shape.q_width


def _expanded(shape: ModelShape, latent: Latent) -> int:
    """Numbers per token beside the cache's narrow ones: queries before and after their rotation, keys, and the layer's
    answer that holds the values.
    """
    return 3 * shape.q_width + shape.heads * (latent.plain + latent.value)


def _mlp(shape: ModelShape, block: Block, reading: Reading) -> Iterator[int]:
    """Moment by moment: gate, its activation with up, their product, down; or the experts, then what serves all."""
    number = reading.number_bytes * reading.tokens
    if block.experts:
        yield reading.tokens * _chosen(block.experts, reading.number_bytes, 4 if shape.latent else reading.number_bytes)
    entering = [linear for linear in block.linears if linear.source == "mlp_norm"]
    leaving = [linear for linear in block.linears if linear.source == "mlp"]
    answered = number * block.experts.hidden if block.experts else 0
    for linear in leaving:
        f, is_fused = linear.width_in, entering[0].width_out > linear.width_in
        yield answered + _layer(entering[0], reading)
        yield answered + number * f + _layer(entering[-1], reading) * (not is_fused)
        yield answered + number * (4 if is_fused else 3) * f
        yield answered + number * (3 if is_fused else 1) * f + _layer(linear, reading)


def _chosen(experts: Experts, number_bytes: int, weighed_bytes: int) -> int:
    """Bytes per token in `grouped_mm_experts_forward`: its input once per expert with gate and up, the activation and
    their product; or with the answer, its weighed form, and that in the old order. DeepSeek weighs in float32.
    """
    h, w = experts.hidden, experts.width
    return experts.per_token * max(number_bytes * (h + 4 * w), 2 * (number_bytes + weighed_bytes) * h)


def _layer(linear: Linear, reading: Reading) -> int:
    """A layer's answer and what it takes to get it; a packed one is unpacked first.

    An adapter reads a float32 copy of the input (4 per number in), and answers in float32, before and after it is
    scaled (8 per number out).
    """
    answer = reading.number_bytes * linear.width_out * reading.tokens
    unpacked = reading.number_bytes * linear.weights + linear.weights // _ABSMAX if reading.packed else 0
    beside = (8 * linear.width_out + 4 * linear.width_in) * reading.tokens if linear.name in reading.adapted else 0
    return answer + max(unpacked, beside)
