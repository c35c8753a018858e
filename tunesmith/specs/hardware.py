"""What the plan may use; unset, what the machine has."""

from typing import Literal

from pydantic import Field

from tunesmith.specs.spec import Spec


class HardwareSpec(Spec):
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """`cuda` refuses a machine without a GPU; `auto` takes the GPU where there is one."""
    gpus: int | None = Field(None, ge=1)
    """How many GPUs the plan may use; unset, one."""
    memory_gib: float | None = Field(None, gt=0)
    """GiB per GPU (on a CPU: of host memory) the plan may use; unset, all there is."""
    headroom: float = Field(0.1, ge=0, lt=0.9)
    """Share of the memory that stays free."""
