"""Which rows to learn from and which to be judged by."""

from typing import Literal

from tunesmith.specs.sources import Sources
from tunesmith.specs.spec import Spec, Where

TooLong = Literal["refuse", "drop", "truncate"]


class HubDataset(Spec):
    """A dataset repo on the hub."""

    repo: str
    """`owner/name` of the dataset."""
    file: str
    """Path of the JSON Lines or Parquet file inside the repo."""
    revision: str = "main"
    sources: Sources = None
    """As in model.sources; unset, those of the model."""


class DataSpec(Spec):
    """Training and held-out rows, as JSON Lines or Parquet with `messages`, or `prompt` and `completion`."""

    train: Where[str | HubDataset]
    """A file (relative to the recipe) or a hub dataset; what counts for a fingerprint is its content."""
    evaluation: Where[str | HubDataset]
    """Held-out rows, never trained on."""
    format: Literal["auto", "messages", "prompt_completion"] = "auto"
    """Shape of a row; `auto` looks at its keys."""
    too_long: TooLong = "refuse"
    """What to do with rows longer than train.max_length tokens: refuse the job, drop them, or truncate them."""
