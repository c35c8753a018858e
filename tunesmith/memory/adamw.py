"""AdamW's states by kind, and what its kernels need beside them; every size is of what one process trains, whole."""

from tunesmith.memory.step import Step

_MAXIMA_BYTES = 2 * 4 / 256
"""Per trained number of block-wise 8-bit states beside their two codes (arXiv 2110.02861, section 2): a float32 maximum
per 256 of each."""
_CODES_BYTES = 2
_WIDE_BYTES = 8
"""Two moments in float32."""


def states_bytes(step: Step, trained: int, wide: int) -> int:
    """Two moments of `trained` numbers in their own precision, or in 8 bits, but for `wide` of them: transformers keeps
    the embedding's states in float32 then. Paged ones live in unified memory, which the allocator does not count, all
    but the maxima.
    """
    maxima = int(_MAXIMA_BYTES * (trained - wide))
    if step.optimizer == "adamw_8bit":
        return _WIDE_BYTES * wide + _CODES_BYTES * (trained - wide) + maxima
    return maxima if step.optimizer == "paged_adamw_8bit" else 2 * step.trained_bytes * trained


def paged_bytes(step: Step, trained: int, wide: int) -> int:
    """What of them lives in unified memory: bitsandbytes pages every state but the maxima, the wide ones too."""
    if step.optimizer != "paged_adamw_8bit":
        return 0
    return _WIDE_BYTES * wide + _CODES_BYTES * (trained - wide)


def temporaries_bytes(step: Step, trained_bytes: int) -> int:
    """The foreach kernels make one temporary of the size of everything this GPU updates; fused ones none."""
    if step.optimizer != "adamw_foreach":
        return 0
    return trained_bytes if step.parallel.strategy in ("single", "ddp") else step.parallel.share(trained_bytes)
