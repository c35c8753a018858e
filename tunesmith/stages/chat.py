"""Chat rows through the model's own template, and which of their tokens are learnt from.

One rendering for training, evaluation and calibration: the text is the template's, it is tokenized once, and the
assistant's share of it is found by rendering the row up to each turn and checking that this is how the whole begins.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tunesmith.errors import DataError, ModelError, NoChatTemplate
from tunesmith.remote_code import is_trusted

IGNORED = -100
"""Label of a token that carries no loss."""

Messages = Sequence[dict[str, str]]
Span = tuple[int, int]


class Rendered(NamedTuple):
    """One row as tokens; both lists have the same length."""

    input_ids: list[int]
    labels: list[int]
    """The token itself inside an assistant turn, its end-of-turn token included; IGNORED elsewhere."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, padding on the right with its end token if it has no padding token.

    Raises NoChatTemplate where chat rows cannot be rendered, ModelError where tokens cannot be traced to the text.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=is_trusted(folder))
    if not tokenizer.chat_template:
        raise NoChatTemplate(
            "The model's tokenizer has no chat template: start from an instruct model, "
            "or add a chat_template.jinja to the model's folder."
        )
    if not tokenizer.is_fast:
        raise ModelError("The model has no fast tokenizer: convert it to a tokenizer.json, or choose another model.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"
    return tokenizer


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> Rendered:
    """The row's tokens and labels.

    Raises DataError when the template refuses the row, when an assistant turn cannot be found again in the text, or
    when the prompt's own tokens are not how the whole row's begin (a model asked that prompt would not be where it
    was taught to answer).
    """
    text = _template(tokenizer, messages)
    spans = list(_assistant_spans(tokenizer, messages, text))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoded["input_ids"]
    prompt = render_prompt(tokenizer, messages)
    if ids[: len(prompt)] != prompt:
        raise DataError(
            "The last answer's first characters melt into the prompt's last token: "
            "remove the white space it starts with, or choose a template that marks where answers start."
        )
    learnt = _inside(encoded["offset_mapping"], spans)
    return Rendered(ids, [token if inside else IGNORED for token, inside in zip(ids, learnt, strict=True)])


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Tokens of everything before the last assistant turn, and of the template's invitation to answer."""
    text = _template(tokenizer, messages[: _last_answer(messages)], invite=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def answer(messages: Messages) -> str:
    """What the last assistant turn says."""
    return messages[_last_answer(messages)]["content"]


def _last_answer(messages: Messages) -> int:
    """Index of the last assistant turn; raises DataError where there is none, or nothing before it."""
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns or messages[0]["role"] == "assistant":
        raise DataError("A row needs an assistant turn with a user turn before it: add one, or remove the row.")
    return turns[-1]


def _template(tokenizer: PreTrainedTokenizerBase, messages: Messages, invite: bool = False) -> str:
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=invite)
    except TemplateError as error:
        raise DataError(
            f"The model's chat template refuses a row ({str(error).rstrip('.')}): "
            "give the row the roles and the order that this model knows."
        ) from error
    return str(text)


def _assistant_spans(tokenizer: PreTrainedTokenizerBase, messages: Messages, text: str) -> Iterator[Span]:
    """First and one-past-last character of each assistant turn in `text`."""
    _last_answer(messages)
    reached = 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        opened = _template(tokenizer, messages[:index], invite=True)
        closed = _template(tokenizer, messages[: index + 1])
        if text.startswith(opened) and text.startswith(closed) and len(opened) < len(closed):
            start, end = len(opened), len(closed)
        else:
            invitation = opened.removeprefix(_template(tokenizer, messages[:index]))
            start, end = _search(tokenizer, text, reached, invitation, message["content"])
        reached = _end_of_turn(tokenizer, text, start, end)
        yield start, reached


def _search(tokenizer: PreTrainedTokenizerBase, text: str, reached: int, invitation: str, content: str) -> Span:
    """Where a turn stands when the template writes earlier turns otherwise once more follow (thoughts removed, say)."""
    for said in (content, content.strip(), content.rpartition("</think>")[2].strip()):
        if (found := text.find(invitation + said, reached)) >= 0:
            end = found + len(invitation + said)
            mark = next((mark for mark in _marks(tokenizer) if text.startswith(mark, end)), "")
            return found + len(invitation), end + len(mark)
    raise DataError(
        "The model's chat template rewrites earlier turns so that an answer cannot be found again: "
        "split the row into rows with one assistant turn each."
    )


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, text: str, start: int, end: int) -> int:
    """`end`, less the white space after an end-of-turn token: no model is asked to go on from there."""
    trimmed = text[start:end].rstrip()
    return start + len(trimmed) if trimmed.endswith(_marks(tokenizer)) else end


def _marks(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Texts of the tokens that templates mark turns with."""
    return (*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens)


def _inside(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> Iterator[bool]:
    """Per token, whether it lies wholly inside a span."""
    reached = 0
    for begins, ends in offsets:
        # Some tokenizers report a token without its leading white space: it starts where the one before it ended.
        begins, reached = min(begins, reached), max(ends, reached)
        yield any(start <= begins and ends <= end for start, end in spans)
