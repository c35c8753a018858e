"""Held-out rows put to a model: how likely it finds their answers, and what it answers itself, greedily.

Both come out of one forward pass where they can. What all prompts begin with is read once. The rest of a batch is laid
out with the prompts ending in the same column,

    pad pad prompt | expected answer pad
    prompt prompt  | expected answer

so the pass over the whole gives the loss, its first part is the prompts' cache, and its argmax says what greedy
decoding would do for as long as it says what was expected. Only the rows that part from it are decoded token by token.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from tunesmith.stages.chat import IGNORED


class Question(NamedTuple):
    """One held-out row as tokens."""

    row: int
    prompt: list[int]
    rest: list[int]
    """What follows the prompt in the rendered row: the expected answer and its end."""
    labels: list[int]
    """Of prompt and rest together."""

    @property
    def first_learnt(self) -> int:
        """Index of the first token that carries loss; the row's length where none does."""
        return next((index for index, label in enumerate(self.labels) if label != IGNORED), len(self.labels))


class Reply(NamedTuple):
    row: int
    tokens: list[int]
    """The greedy answer, without the token that ended it."""
    nll: float
    """Summed over the row's learnt tokens, nats."""
    num_tokens: int


class Opening(NamedTuple):
    """What every prompt begins with, as the model remembers it."""

    length: int
    """Tokens; may be none."""
    cache: Cache
    """Keys and values of one row."""


class Laid(NamedTuple):
    """A batch as tensors of shape (rows, columns), without the opening."""

    input_ids: Tensor
    mask: Tensor
    """1 where there is a token; covers the opening's columns too."""
    labels: Tensor
    seam: int
    """The column where the answers start."""


def read_opening(model: nn.Module, questions: Sequence[Question]) -> Opening:
    """Reads what all prompts share, short of any token whose prediction counts."""
    limit = min(min(len(question.prompt), question.first_learnt) for question in questions) - 1
    first = questions[0].prompt
    shared = (n for n in range(limit) if any(question.prompt[n] != first[n] for question in questions))
    length, cache = next(shared, max(limit, 0)), DynamicCache()
    if length:
        tokens = torch.tensor([first[:length]], device=_device(model))
        with torch.inference_mode():
            forward(model, tokens, torch.ones_like(tokens), cache, 1)
    return Opening(length, cache)


def ask(
    model: nn.Module, opening: Opening, batch: Sequence[Question], max_new_tokens: int, stops: frozenset[int]
) -> list[Reply]:
    """The batch's replies, in its order; an answer ends before a token of `stops`, or at `max_new_tokens`."""
    laid, cache = lay(batch, opening.length, _device(model)), copy.deepcopy(opening.cache)
    first = _first_needed(laid)
    with torch.inference_mode():
        cache.batch_repeat_interleave(len(batch))
        logits = forward(model, laid.input_ids, laid.mask, cache, laid.input_ids.shape[1] - first)
        losses = [row_loss(row, labels[first + 1 :]) for row, labels in zip(logits, laid.labels, strict=True)]
        greedy = logits[:, laid.seam - 1 - first :].argmax(-1)
        del logits
        cache.crop(laid.seam - laid.input_ids.shape[1])
        answers = _answers(model, batch, laid, cache, greedy, max_new_tokens, stops)
    counts = (laid.labels != IGNORED).sum(-1).tolist()
    asked = zip(batch, answers, losses, counts, strict=True)
    return [Reply(question.row, tokens, loss, count) for question, tokens, loss, count in asked]


def lay(batch: Sequence[Question], skip: int, device: torch.device) -> Laid:
    """Prompts end, and answers start, in one column; the first `skip` tokens of every row are left to the opening."""
    seam = max(len(question.prompt) for question in batch) - skip
    shape = (len(batch), seam + max(len(question.rest) for question in batch))
    input_ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for row, question in enumerate(batch):
        tokens = torch.tensor((question.prompt + question.rest)[skip:])
        place = slice(seam + skip - len(question.prompt), seam + len(question.rest))
        input_ids[row, place], mask[row, place], labels[row, place] = tokens, 1, torch.tensor(question.labels[skip:])
    mask = torch.cat([mask.new_ones(len(batch), skip), mask], dim=1)
    return Laid(input_ids.to(device), mask.to(device), labels.to(device), seam)


def decode(
    model: nn.Module, cache: Cache, mask: Tensor, current: Tensor, max_new_tokens: int, stops: frozenset[int]
) -> list[list[int]]:
    """Greedy answers that go on from `cache`, whose columns `mask` describes, with `current` as their first tokens.

    An answer ends before the first token of `stops`, or at `max_new_tokens`; its row then leaves the batch.
    """
    answers: list[list[int]] = [[] for _ in current]
    rows = torch.arange(len(current), device=current.device)
    ends = torch.tensor(sorted(stops), device=current.device)
    for step in range(max_new_tokens):
        going = ~torch.isin(current, ends)
        if not going.all():
            cache.batch_select_indices(going.nonzero().squeeze(1))
            rows, mask, current = rows[going], mask[going], current[going]
        for row, token in zip(rows.tolist(), current.tolist(), strict=True):
            answers[row].append(token)
        if not rows.numel() or step + 1 == max_new_tokens:
            break
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        current = forward(model, current[:, None], mask, cache, 1)[:, -1].argmax(-1)
    return answers


def _answers(
    model: nn.Module,
    batch: Sequence[Question],
    laid: Laid,
    cache: Cache,
    greedy: Tensor,
    max_new_tokens: int,
    stops: frozenset[int],
) -> list[list[int]]:
    """`greedy` (rows, columns from the seam) where it settles the answer, decoding where it does not."""
    pairs = zip(batch, greedy.tolist(), strict=True)
    settled = [_settled(question.rest, said, max_new_tokens, stops) for question, said in pairs]
    if None in settled:
        rows = torch.tensor([row for row, tokens in enumerate(settled) if tokens is None], device=greedy.device)
        cache.batch_select_indices(rows)
        mask = laid.mask[rows, : cache.get_seq_length()]
        decoded = iter(decode(model, cache, mask, greedy[rows, 0], max_new_tokens, stops))
        return [next(decoded) if tokens is None else tokens for tokens in settled]
    return [tokens for tokens in settled if tokens is not None]


def _settled(expected: list[int], greedy: list[int], max_new_tokens: int, stops: frozenset[int]) -> list[int] | None:
    """The greedy answer if it follows `expected` to its own end, else None.

    `greedy[i]` is what the model says after the first i expected tokens.
    """
    for index, said in enumerate(greedy):
        if index == max_new_tokens or said in stops:
            return expected[:index]
        if index == len(expected) or said != expected[index]:
            return None
    return None


def _first_needed(laid: Laid) -> int:
    """The first column whose logits count: the one before the first learnt token, or before the seam."""
    learnt = int((laid.labels != IGNORED).int().argmax(-1).min())
    return max(min(learnt, laid.seam) - 1, 0)


def row_loss(logits: Tensor, labels: Tensor) -> float:
    """Summed negative log-likelihood of one row, in float32; the last column predicts nothing."""
    return float(F.cross_entropy(logits[: len(labels)].float(), labels, ignore_index=IGNORED, reduction="sum"))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def forward(model: nn.Module, input_ids: Tensor, mask: Tensor, cache: Cache, keep: int) -> Tensor:
    """Logits of the last `keep` columns; `mask` covers the cache's columns too."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
    logits: Tensor = model(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    ).logits
    return logits
