"""The loss a few hundred tokens at a time, so that the logits of a whole batch never exist.

A row of 1024 tokens has 0.6 GB of float32 logits at a vocabulary of 152,000, and about as much three times over in the
backward pass. Here each piece's logits are made, turned into its loss, dropped, and made again when its gradient is due
(arXiv 1604.06174); the sum is the usual loss.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from tunesmith.memory.constants import LOSS_CHUNK_TOKENS
from tunesmith.stages.chat import IGNORED


class ChunkedLoss:
    """What the trainer calls in place of the model's own loss."""

    def __init__(self, model: PreTrainedModel, autocast: bool, chunk_tokens: int = LOSS_CHUNK_TOKENS) -> None:
        """From here on the model answers with the head's input in place of logits; its weights keep their names."""
        self.head: nn.Linear = model.get_output_embeddings()
        self.autocast, self.chunk_tokens = autocast, chunk_tokens
        self.head.forward = _unchanged

    def __call__(
        self, outputs: CausalLMOutputWithPast, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Mean loss per learnt token over the whole effective batch (`num_items_in_batch`), or over this one."""
        hidden = outputs.logits[:, :-1].flatten(0, 1)
        expected = labels[:, 1:].flatten().to(hidden.device)
        pieces = zip(hidden.split(self.chunk_tokens), expected.split(self.chunk_tokens), strict=True)
        losses = [checkpoint(self._piece, piece, part, use_reentrant=False) for piece, part in pieces]
        count = (expected != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        return torch.stack(losses).sum() / count

    def _piece(self, hidden: Tensor, expected: Tensor) -> Tensor:
        """Summed loss of some tokens, float32; `hidden` is (tokens, width)."""
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=self.autocast):
            logits = F.linear(hidden.to(self.head.weight.dtype), self.head.weight, self.head.bias)
        return F.cross_entropy(logits.float(), expected, ignore_index=IGNORED, reduction="sum")


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden
