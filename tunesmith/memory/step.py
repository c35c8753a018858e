"""One optimizer step as the memory sees it: what is trained, in which arithmetic, with which kernels."""

from typing import Literal

from tunesmith.memory.parallel import Parallel
from tunesmith.specs.spec import Spec
from tunesmith.specs.train import Full, QLora, SettledTrain

Arithmetic = Literal["fp32", "amp", "bf16"]
"""float32; float32 weights, or 16-bit frozen ones, under autocast; or 16 bits throughout."""
Attention = Literal["eager", "sdpa", "flash"]
"""The score matrix written out; torch's fused kernels; or the flash-attention library's."""
Optimizer = Literal["adamw_fused", "adamw_foreach", "adamw_8bit", "paged_adamw_8bit"]
AdapterPrecision = Literal["fp32", "bf16"]
Loss = Literal["full", "chunked"]
"""Logits of all tokens at once, or of a few hundred at a time, recomputed in the backward pass."""


class Step(Spec):
    """What one forward and backward pass, and the optimizer after it, are asked to do."""

    method: SettledTrain
    arithmetic: Arithmetic
    micro_batch_size: int
    gradient_checkpointing: bool
    accumulates: bool
    """Gradients of earlier micro-batches are there while the next one runs."""
    attention: Attention = "sdpa"
    optimizer: Optimizer = "adamw_fused"
    adapter_precision: AdapterPrecision = "fp32"
    loss: Loss = "full"
    parallel: Parallel = Parallel()

    @property
    def tokens(self) -> int:
        return self.micro_batch_size * self.method.max_length

    @property
    def is_padded(self) -> bool:
        """Rows of different lengths share a batch, so there is a mask."""
        return self.micro_batch_size > 1

    @property
    def is_nf4(self) -> bool:
        return isinstance(self.method, QLora)

    @property
    def compute_bytes(self) -> int:
        """Of one number in a product of matrices."""
        return 4 if self.arithmetic == "fp32" else 2

    @property
    def frozen_bytes(self) -> int:
        """Of one frozen number that is not packed; QLoRA keeps head, embedding and norms in float32."""
        return 4 if self.arithmetic == "fp32" or self.is_nf4 else 2

    @property
    def trained_bytes(self) -> int:
        """Of one trained number; adapters, and weights trained under autocast, stand in float32, but for DeepSpeed."""
        if self.parallel.is_zero:
            return 2
        if isinstance(self.method, Full):
            return 2 if self.arithmetic == "bf16" else 4
        return self.adapter_bytes

    @property
    def adapter_bytes(self) -> int:
        """Of one of the adapter's numbers: float32, or left in the precision of what is loaded."""
        return 2 if self.adapter_precision == "bf16" and self.arithmetic != "fp32" else 4
