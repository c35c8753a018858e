"""How to make the model smaller before it is served: one class per quantizer."""

from typing import Annotated, Literal

from pydantic import Field

from tunesmith.specs.spec import Spec


class Calibration(Spec):
    """Which of the task's own training rows the quantizer sees."""

    rows: int = Field(128, ge=1)
    """Training rows, chosen by seed."""
    max_length: int = Field(1024, ge=8)
    """Longest calibration row in tokens."""
    seed: int = Field(0, ge=0)


class Gptq(Spec):
    """GPTQ (arXiv 2210.17323) through gptqmodel, the live successor of auto-gptq."""

    method: Literal["gptq"] = "gptq"
    bits: Literal[4, 8] = 4
    group_size: int = Field(128, ge=8)
    """Columns that share a scale; must divide the width of every quantized layer."""
    desc_act: bool = False
    """Quantize columns in order of falling activation; refused where vLLM serves, which no longer loads that."""
    damp: float = Field(0.05, gt=0, lt=1)
    """Share of the Hessian's mean diagonal added for stability."""
    calibration: Calibration = Calibration()


class NoQuantization(Spec):
    """Serve the merged 16-bit weights."""

    method: Literal["none"] = "none"


Quantize = Annotated[Gptq | NoQuantization, Field(discriminator="method")]
