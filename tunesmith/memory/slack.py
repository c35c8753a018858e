"""What PyTorch's caching allocator reserves on a GPU beyond tensors, with expandable segments: the holes between them.

What is reserved stays so, so its most in all counts: at the fullest moment, with what was freed before it and is too
short, or too scattered, for what comes. Every term is a hole that replayed steps have, with one share for all models;
benchmarks/slack.py holds the sum against replays. Steps after the second reserve no more, where they are alike. Before
a GPU runs out, the allocator gives it free pages back, so a step that is denied its slack may still run.
"""

from collections.abc import Mapping

from tunesmith.memory.blocks import saved_bytes
from tunesmith.memory.constants import LOSS_CHUNK_TOKENS
from tunesmith.memory.segments import LARGE_SEGMENT_BYTES, SMALL_SEGMENT_BYTES
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Step
from tunesmith.memory.training import COPIES, Items, total
from tunesmith.specs.train import Full

_PAGES_BYTES = 2 * LARGE_SEGMENT_BYTES + SMALL_SEGMENT_BYTES
"""A pool ends within a page; the large one has about one more in crumbs."""
_CRUMBS = 0.01
"""Share of all tensors: between blocks of many sizes; what no other term explains."""
_RECOMPUTED = 0.3
"""Share of a recomputed block's tensors: holes that its own tensors leave for one another."""
_BESIDE_KEPT = 1.25
"""16-bit vectors of the hidden width per token and block that is kept: temporaries freed between what is kept."""
_SCATTERED = 0.1
"""Share of the gradients: freed after each step, among states made in between."""
_NEIGHBOURS = 2
"""Gradients of the embedding's length that one hole can come from."""
_SPREAD = 0.04
"""Least share of all tensors where a step is spread over GPUs, which is not replayed: 1.1 to 4.6 % in native replays
of 7B steps."""


def plain_slack(items: Items, unpacked: int = 0) -> int:
    """Bytes beyond these tensors where few come and go; `unpacked`: a layer in 16 bits that is packed, then freed."""
    return _PAGES_BYTES + int(_CRUMBS * total(items)) + unpacked


def step_slack(shape: ModelShape, step: Step, found: Mapping[str, Items]) -> int:
    """Bytes beyond the fullest of the moments in `found`, which are those of `moments`, on one GPU."""
    fullest = max(total(items) for items in found.values())
    freed = 0 if step.accumulates else found["optimizer"]["gradients"]
    scattered = int(_SCATTERED * freed)
    loss = _passed_over(shape, step) + max(scattered, _too_short(shape, step, found, freed))
    head = max(scattered, _free_of(shape, step, found, freed) if _makes_several(step) else 0)
    needed = max(
        fullest + scattered,
        total(found["loss"]) + _dropped(found, "loss") + loss,
        total(found["head"]) + _dropped(found, "head") + head,
    )
    needed += _between_blocks(shape, step, found)
    counted = needed - max(items.get("NCCL", 0) for items in found.values())
    slack = _PAGES_BYTES + needed - fullest + int(_CRUMBS * counted)
    return slack if step.parallel.strategy == "single" else max(slack, int(_SPREAD * counted))


def _piece(step: Step) -> int:
    """Tokens whose logits exist at once."""
    return step.tokens if step.loss == "full" else min(step.tokens, LOSS_CHUNK_TOKENS)


def _passed_over(shape: ModelShape, step: Step) -> int:
    """The logits as the head gives them, freed before the backward pass: in 16 bits, half as long as the gradients of
    theirs that come then, in float32.
    """
    return 0 if step.arithmetic == "fp32" else 2 * _piece(step) * shape.vocab


def _dropped(found: Mapping[str, Items], moment: str) -> int:
    """Autocast's copies of checkpointed blocks' weights, freed after the forward pass from between blocks' inputs."""
    return max(0, found["forward"].get(COPIES, 0) - found[moment].get(COPIES, 0))


def _too_short(shape: ModelShape, step: Step, found: Mapping[str, Items], freed: int) -> int:
    """What freed gradients leave that no logits find room in: all, where those are longer than any two of them."""
    longest = step.trained_bytes * shape.embedding_params if isinstance(step.method, Full) else 0
    fits = 4 * _piece(step) * shape.vocab <= _NEIGHBOURS * longest
    return 0 if fits else _free_of(shape, step, found, freed)


def _free_of(shape: ModelShape, step: Step, found: Mapping[str, Items], freed: int) -> int:
    """What is left of `freed` when the forward pass has put into it what it keeps."""
    return max(0, freed - saved_bytes(shape, step) - found["forward"].get(COPIES, 0))


def _makes_several(step: Step) -> bool:
    """Whether gradients of the head's length are made several at once, by a loss in pieces."""
    return isinstance(step.method, Full) and step.loss == "chunked" and step.tokens > LOSS_CHUNK_TOKENS


def _between_blocks(shape: ModelShape, step: Step, found: Mapping[str, Items]) -> int:
    if step.gradient_checkpointing:
        return int(_RECOMPUTED * found["last block"]["one block's temporaries"])
    return int(_BESIDE_KEPT * 2 * shape.hidden * shape.layers * step.tokens)
