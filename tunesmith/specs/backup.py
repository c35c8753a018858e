"""Where a run's results are kept a second time, and how often."""

import re
from typing import Literal

from pydantic import Field, field_validator

from tunesmith.specs.spec import Spec

What = Literal["adapter", "checkpoints", "release"]
TARGET = re.compile(r"(hf|modelscope|https?://[^\s?#@]+?)[:/]([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})")
"""The hub, and `owner/name` on it."""


class BackupSpec(Spec):
    """A repo on a hub that results are pushed to while the run goes on; it changes no result and no fingerprint."""

    to: str
    """`hf:owner/name`, `modelscope:owner/name`, or the URL of a repo on another Hugging Face hub."""
    every: Literal["checkpoint"] | float = "checkpoint"
    """Minutes between two pushed checkpoints; `checkpoint` pushes each."""
    what: tuple[What, ...] = Field(("adapter", "checkpoints", "release"), min_length=1)
    """`adapter`: what training made (all weights where it trained them); `release`: the merged and quantized model."""
    private: bool = True
    """How the repo is made, where there is none."""

    @field_validator("to")
    @classmethod
    def _known_place(cls, to: str) -> str:
        if not TARGET.fullmatch(to):
            raise ValueError("write hf:owner/name, modelscope:owner/name, or https://host/owner/name")
        return to

    @field_validator("every")
    @classmethod
    def _some_time(cls, every: Literal["checkpoint"] | float) -> Literal["checkpoint"] | float:
        if every != "checkpoint" and not 0 < every < float("inf"):
            raise ValueError("give minutes above 0, or the word checkpoint")
        return every
