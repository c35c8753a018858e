"""Training rows as tokens, the length policy, and batches padded to their own longest row."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from tunesmith.errors import DataError
from tunesmith.stages.chat import IGNORED, Rendered, render

Batch = dict[str, torch.Tensor]
TooLong = Literal["refuse", "drop", "truncate"]


class Rows:
    """Rendered rows in the file's order."""

    def __init__(self, rows: Sequence[Rendered], num_dropped: int = 0, num_truncated: int = 0) -> None:
        self.rows = rows
        self.num_dropped = num_dropped
        """Rows left out: too long, or cut so short that no answer was left."""
        self.num_truncated = num_truncated
        """Rows cut to the length limit."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Rendered:
        return self.rows[index]


class Collator(NamedTuple):
    """Rows to one batch, padded on the right to its longest row."""

    pad_token_id: int

    def __call__(self, rows: Sequence[Rendered]) -> Batch:
        """`input_ids`, `attention_mask` and `labels`, each int64 of shape (rows, longest)."""
        longest = max(len(row.input_ids) for row in rows)
        return {
            "input_ids": _padded([row.input_ids for row in rows], longest, self.pad_token_id),
            "attention_mask": _padded([[1] * len(row.input_ids) for row in rows], longest, 0),
            "labels": _padded([row.labels for row in rows], longest, IGNORED),
        }


def load_rows(path: Path, tokenizer: PreTrainedTokenizerBase, max_length: int, too_long: TooLong) -> Rows:
    """The file's rows under the length policy.

    Raises DataError with the row's number for one that cannot be rendered; under `refuse`, with how many rows are
    too long; and when no row remains.
    """
    rendered = list(_rendered(path, tokenizer))
    longer = [len(row.input_ids) for row in rendered if len(row.input_ids) > max_length]
    if longer and too_long == "refuse":
        raise DataError(
            f"{len(longer)} of {len(rendered)} training rows are longer than train.max_length {max_length} tokens, "
            f"the longest has {max(longer)}: raise train.max_length to that, or set data.too_long to drop or truncate."
        )
    cut = [Rendered(row.input_ids[:max_length], row.labels[:max_length]) for row in rendered]
    kept = [row for row, whole in zip(cut, rendered, strict=True) if _usable(row, whole, too_long)]
    if not kept:
        raise DataError(
            f"None of the {len(rendered)} training rows has an answer within train.max_length {max_length} tokens: "
            "raise it, or shorten the prompts."
        )
    num_dropped = len(rendered) - len(kept)
    return Rows(kept, num_dropped, num_truncated=len(longer) - num_dropped if too_long == "truncate" else 0)


def _usable(cut: Rendered, whole: Rendered, too_long: TooLong) -> bool:
    """Whether a row cut to the limit is trained on: a row without a token to predict would only add padding."""
    if too_long == "drop" and len(cut.input_ids) < len(whole.input_ids):
        return False
    return any(label != IGNORED for label in cut.labels[1:])


def _rendered(path: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[Rendered]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield render(tokenizer, json.loads(line)["messages"])
            except DataError as error:
                raise DataError(f"Training row {number}: {error.message}") from error


def _padded(rows: Sequence[Sequence[int]], length: int, filler: int) -> torch.Tensor:
    return torch.tensor([[*row, *[filler] * (length - len(row))] for row in rows])
