"""How a model is judged, and what must hold before it is served."""

from typing import Literal

from pydantic import Field

from tunesmith.specs.spec import Spec

Metric = Literal["exact_match", "json_equal"]


class Gate(Spec):
    """The conditions; an unset one does not hold anything back."""

    min_score: float | None = Field(None, ge=0, le=1)
    """The tuned model's score must reach this."""
    min_gain: float | None = Field(None, ge=0, le=1)
    """The tuned model must beat the base by this much."""
    max_drop: float | None = Field(0.05, ge=0, le=1)
    """Merged, quantized and served may each score at most this much below the tuned model."""


class EvaluateSpec(Spec):
    metric: Metric = "exact_match"
    """`exact_match`: the answer's text, outer white space aside; `json_equal`: both parse to equal JSON."""
    rows: int | None = Field(None, ge=1)
    """Held-out rows to answer, from the top; unset, all."""
    batch_size: int = Field(16, ge=1)
    """Rows answered at once."""
    max_new_tokens: int = Field(128, ge=1)
    """Longest answer in tokens."""
    served_rows: int = Field(32, ge=1)
    """Held-out rows the live endpoint must answer within the gate before it is announced."""
    gate: Gate = Gate()
