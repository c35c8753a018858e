"""How the training is spread over GPUs, and what of it may live in host memory or on NVMe."""

from typing import Literal

from pydantic import Field, model_validator

from tunesmith.specs.spec import Spec

Strategy = Literal["single", "ddp", "zero1", "zero2", "zero3", "fsdp"]
Offload = Literal["none", "optimizer", "parameters", "nvme"]
SHARDS_WEIGHTS: tuple[Strategy, ...] = ("zero3", "fsdp")
"""Strategies that hold a share of the weights only."""


class ParallelSpec(Spec):
    strategy: Literal["auto"] | Strategy = "auto"
    """`ddp` copies everything; ZeRO (arXiv 1910.02054) shards optimizer states (1), gradients (2), weights (3);
    `fsdp` is FSDP2, which shards all three. `auto`: the fastest that fits."""
    world_size: int | None = Field(None, ge=1)
    """GPUs to spread over; unset, hardware.gpus or one."""
    offload: Literal["auto"] | Offload = "auto"
    """`optimizer`: gradients and states in host memory; `parameters`: the weights too (needs zero3 or fsdp); `nvme`:
    the optimizer's states on NVMe (needs zero3). `auto`: only where nothing else fits."""

    @model_validator(mode="after")
    def _consistent(self) -> "ParallelSpec":
        if self.strategy == "single" and (self.world_size or 1) > 1:
            raise ValueError(f"parallel.strategy single uses one GPU, and world_size is {self.world_size}")
        if self.offload in ("parameters", "nvme") and self.strategy not in ("auto", *SHARDS_WEIGHTS):
            raise ValueError(f"parallel.offload {self.offload} needs strategy zero3 or fsdp, not {self.strategy}")
        return self
