"""How to learn: one class per method."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tunesmith.specs.spec import Spec

Targets = Literal["all-linear"] | tuple[str, ...]


class TrainSpec(Spec):
    """What every method has."""

    epochs: float | None = Field(None, gt=0)
    """Passes over the training rows; this or `max_steps`."""
    max_steps: int | None = Field(None, gt=0)
    """Optimizer steps; this or `epochs`."""
    batch_size: int = Field(16, ge=1)
    """Effective batch in rows: what one optimizer step sees over all devices and accumulation."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning-rate schedule after the warm-up."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the steps that warm up."""
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    max_length: int = Field(1024, ge=8)
    """Longest row in tokens, prompt and answer together."""
    seed: int = Field(0, ge=0)
    """Seeds data order, adapter initialisation and dropout."""
    checkpoint_steps: int = Field(50, ge=1)
    """Optimizer steps between checkpoints; what a kill costs at most."""
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """`auto` lets the plan decide."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Rows per forward pass; unset, the plan decides."""
    precision: Literal["auto", "fp32", "amp", "bf16"] = "auto"
    """`amp`: autocast to bfloat16, what is trained in float32; `bf16`: bfloat16 throughout, the optimizer's states too.
    `auto`: float32 on a CPU, else amp."""
    attention: Literal["auto", "eager", "sdpa", "flash"] = "auto"
    """`eager` writes the scores out, `sdpa` takes torch's fused kernels (`auto`), `flash` the flash-attn library's."""
    optimizer: Literal["auto", "adamw_fused", "adamw_foreach", "adamw_8bit", "paged_adamw_8bit"] = "auto"
    """AdamW and how its states are kept; `auto`: fused, and 8-bit states where nothing else fits."""
    loss: Literal["auto", "full", "chunked"] = "auto"
    """`chunked` computes logits and loss a few hundred tokens at a time; `auto`: only where the whole does not fit."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainSpec":
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give exactly one of train.epochs and train.max_steps (set the other to null)")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"train.batch_size {self.batch_size} is not a multiple of "
                f"train.micro_batch_size {self.micro_batch_size}"
            )
        return self


class _AdapterSpec(TrainSpec):
    rank: int = Field(16, ge=1)
    """Rank r of the adapter (LoRA, arXiv 2106.09685)."""
    alpha: float = Field(32, gt=0)
    """Adapter scale: the update is alpha / rank * B A."""
    dropout: float = Field(0.0, ge=0, lt=1)
    adapter_precision: Literal["fp32", "bf16"] = "fp32"
    """Of the adapter's weights and states; float32 as PEFT has it."""
    targets: Targets = "all-linear"
    """Module names to adapt, or every linear layer but the head."""


class Lora(_AdapterSpec):
    """LoRA on the 16-bit (on a CPU: fp32) base."""

    method: Literal["lora"] = "lora"


class QLora(_AdapterSpec):
    """LoRA on an NF4 base with double quantization (QLoRA, arXiv 2305.14314)."""

    method: Literal["qlora"] = "qlora"


class Full(TrainSpec):
    """Every weight is trained."""

    method: Literal["full"] = "full"


class AutoAdapter(_AdapterSpec):
    """LoRA; QLoRA where LoRA does not fit."""

    method: Literal["auto"] = "auto"

    def settled(self, packed: bool) -> Lora | QLora:
        """What the plan made of it."""
        values = self.model_dump(exclude={"method"})
        return QLora(**values) if packed else Lora(**values)


SettledTrain = Annotated[Lora | QLora | Full, Field(discriminator="method")]
Train = Annotated[Lora | QLora | Full | AutoAdapter, Field(discriminator="method")]
