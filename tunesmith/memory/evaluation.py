"""The memory of the evaluate stage: one batch of held-out rows put to a model, at its fullest moment.

As `ask` does it (stages/evaluate/asking.py): one pass over prompts and expected answers, which fills the cache of keys
and values and keeps the logits of the answers' columns; each row's loss by itself; then token by token what is not
settled. The last token's pass needs a layer's cache twice and little else, so it is never the fullest.
"""

from typing import NamedTuple

from tunesmith.memory.reading import Reading, block_bytes, mask_bytes
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Step
from tunesmith.memory.training import Items, nf4_bytes, total, trained_params
from tunesmith.specs.train import Full

_BATCH_BYTES = 24
"""Per token: its number, its place in the mask and its position."""


class Batch(NamedTuple):
    """Held-out rows as they are laid out: prompts end in one column, and answers start in the next."""

    rows: int
    prompt_tokens: int
    answer_tokens: int
    """Of the longest expected or given answer. All before is taken to be prompt, as in rows of a single answer: where a
    row has earlier ones, its logits start there."""

    @property
    def columns(self) -> int:
        return self.prompt_tokens + self.answer_tokens


class Judged(NamedTuple):
    """A model as the stage loads it."""

    number_bytes: int
    """4 on a CPU, where adapters are added to the weights; 2 on a GPU, where they stay beside them."""
    adapter_params: int = 0
    adapted: tuple[str, ...] = ()
    """Names of the linear layers that have one."""
    packed: bool = False
    """Linear layers are NF4, as QLoRA trained beside them."""


def evaluate_items(shape: ModelShape, judged: tuple[Judged, ...], batch: Batch) -> Items:
    """Bytes by item at the fullest moment of the fullest model."""
    found = (items for model in judged for items in moments(shape, model, batch).values())
    return max(found, key=total)


def judged_on(device: str, shape: ModelShape, step: Step) -> tuple[Judged, ...]:
    """Those of the judged models of which one is the fullest: a plain one, and on a GPU the base with its adapter."""
    if device == "cpu":
        return (Judged(4),)
    if isinstance(step.method, Full):
        return (Judged(2),)
    names = tuple(sorted({linear.name for linear in shape.adapted(step.method.targets)}))
    adapted = Judged(2, trained_params(shape, step.method), names, step.is_nf4)
    return Judged(2), adapted


def moments(shape: ModelShape, judged: Judged, batch: Batch) -> dict[str, Items]:
    """Bytes by item at the moments when a batch can be at its fullest: in the last block, where the cache is whole; at
    the logits, of which capping makes a second set; and at one row's loss.
    """
    reading = Reading(batch.rows, batch.columns, judged.number_bytes, judged.adapted, judged.packed)
    number, tokens = judged.number_bytes, reading.tokens
    standing = judged_weights(shape, judged) | {
        f"KV cache ({batch.rows} rows)": tokens * shape.kv_values_per_token() * number
    }
    rows = {"tokens and positions": tokens * (_BATCH_BYTES + 2 * number * shape.head_dim)}
    block = max(block_bytes(shape, block, reading) for block in shape.blocks)
    head = {"last hidden states": number * shape.hidden * (tokens + _kept_columns(batch))}
    return {
        "block": standing | rows | {"attention mask": mask_bytes(shape, reading), "one block's activations": block},
        "head": standing | head | {"logits": _logit_bytes(shape, judged, batch) * (2 if shape.capped_logits else 1)},
        "loss": standing | {"logits and loss": _logit_bytes(shape, judged, batch) + _loss_bytes(shape, judged, batch)},
    }


def judged_weights(shape: ModelShape, judged: Judged) -> Items:
    """Weights by precision, and the adapter in float32."""
    adapter = {"adapter": 4 * judged.adapter_params} if judged.adapter_params else {}
    if not judged.packed:
        return {
            f"weights ({'fp32' if judged.number_bytes == 4 else 'bf16'})": shape.params * judged.number_bytes
        } | adapter
    rest = (shape.params - shape.linear_weights) * judged.number_bytes
    return {"weights (nf4)": nf4_bytes(shape.linear_weights), "weights (bf16, not packed)": rest} | adapter


def _kept_columns(batch: Batch) -> int:
    """Columns with logits, of all rows: the answers', and the one before."""
    return batch.rows * (batch.answer_tokens + 1)


def _logit_bytes(shape: ModelShape, judged: Judged, batch: Batch) -> int:
    return judged.number_bytes * shape.vocab * _kept_columns(batch)


def _loss_bytes(shape: ModelShape, judged: Judged, batch: Batch) -> int:
    """Of one row: its logits in float32 where they are not, and their log-softmax."""
    return (8 if judged.number_bytes == 2 else 4) * shape.vocab * batch.answer_tokens
