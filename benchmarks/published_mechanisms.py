"""What the software behind published figures does otherwise than the bill says: one function per named mechanism."""

from collections.abc import Callable

from benchmarks.published_rows import MechanismName, Moments, Row, Serving, Training
from tunesmith.memory.activations import block_bytes
from tunesmith.memory.blocks import kept_by
from tunesmith.memory.constants import SERVER_BATCH_TOKENS
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.training import moments, nf4_bytes


def _rest_in_16_bits(row: Row, shape: ModelShape, found: Moments) -> Moments:
    """The packed base trains as a 16-bit one does, with one layer unpacked at a time."""
    if not (isinstance(row, Training) and row.method == "qlora"):
        return found
    outer = 2 * (shape.params - shape.linear_weights)
    packed = {"weights (nf4)": nf4_bytes(shape.linear_weights), "embedding, head, norms (bf16)": outer}
    plain = moments(shape, row.step("lora"))
    unpacked = {
        moment: {name: size for name, size in items.items() if name != "weights (bf16)"} | packed
        for moment, items in plain.items()
    }
    return _more(unpacked, "one block's temporaries", 2 * shape.largest_linear)


def _packed_layers_keep_inputs(row: Row, shape: ModelShape, found: Moments) -> Moments:
    """Both norms' outputs and the MLP's product; the attention keeps its own output already."""
    if not (isinstance(row, Training) and row.method == "qlora"):
        return found
    return _more_per_block(row, shape, found, 2 * (2 * shape.hidden + shape.ffn))


def _one_adapter_input(row: Row, shape: ModelShape, found: Moments) -> Moments:
    """A 16-bit input after dropout, its mask, and r per target, where the bill has inputs for every target."""
    if not isinstance(row, Training):
        return found
    kept = kept_by(shape, row.step("lora"), shape.blocks[0])
    billed = block_bytes(shape, kept) - block_bytes(shape, kept._replace(adapted=(), rank=0))
    actual = (2 + bool(row.dropout)) * shape.hidden + 2 * kept.rank * len(kept.adapted)
    return _more_per_block(row, shape, found, actual - billed)


def _fused_qkv_kept(row: Row, shape: ModelShape, found: Moments) -> Moments:
    """The projected q and k beside the rotated ones."""
    if not isinstance(row, Training):
        return found
    return _more_per_block(row, shape, found, 2 * (shape.q_width + shape.kv_width))


def _adapter_update_kept(row: Row, shape: ModelShape, found: Moments) -> Moments:
    """What the adapters add, in 16 bits, as torch's index_copy keeps its source."""
    if not isinstance(row, Training):
        return found
    return _more_per_block(row, shape, found, 2 * sum(each.width_out for each in shape.adapted(row.targets)))


def _loss_in_16_bits(row: Row, shape: ModelShape, found: Moments) -> Moments:
    """Logits and log-softmax of all tokens, and two gradients of a piece of 128 tokens."""
    if not isinstance(row, Training):
        return found
    piece = min(row.length, 128) * row.micro_batch_size
    size = 4 * shape.vocab * (row.tokens + piece)
    return {**found, "loss": found["loss"] | {"logits and loss": size}}


def _profile_of_one_sequence(row: Row, shape: ModelShape, found: Moments) -> Moments:
    """The start-up profile runs max_model_len tokens at once, and there are no graphs yet."""
    if not (isinstance(row, Serving) and row.quantity == "beside"):
        return found
    items = found["serve"]
    block = items["one block's activations"] * max(row.max_model_len, SERVER_BATCH_TOKENS) // SERVER_BATCH_TOKENS
    return {"serve": items | {"one block's activations": block, "CUDA graphs": 0}}


MECHANISMS: dict[MechanismName, Callable[[Row, ModelShape, Moments], Moments]] = {
    "rest_in_16_bits": _rest_in_16_bits,
    "packed_layers_keep_inputs": _packed_layers_keep_inputs,
    "one_adapter_input": _one_adapter_input,
    "fused_qkv_kept": _fused_qkv_kept,
    "adapter_update_kept": _adapter_update_kept,
    "loss_in_16_bits": _loss_in_16_bits,
    "profile_of_one_sequence": _profile_of_one_sequence,
}
"""Applied in the order in which a source lists them."""


def _more_per_block(row: Training, shape: ModelShape, found: Moments, per_token: int) -> Moments:
    """Bytes per token that every block keeps: of all blocks, or of the one that is recomputed."""
    if row.checkpointing:
        return _more(found, "one block's temporaries", per_token * row.tokens)
    return _more(found, "activations", shape.layers * per_token * row.tokens)


def _more(found: Moments, name: str, size: int) -> Moments:
    return {moment: items | ({name: items[name] + size} if name in items else {}) for moment, items in found.items()}
