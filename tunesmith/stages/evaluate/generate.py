"""How good a model is: its own greedy answers scored, and the loss of the expected ones, on the held-out rows."""

from tunesmith.stages import lean  # noqa: F401  # isort: skip

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from tunesmith import worker
from tunesmith.artifacts import Score
from tunesmith.errors import DataError, OutOfMemory
from tunesmith.foreign import translate
from tunesmith.jobs import ScoreJob
from tunesmith.stages.chat import answer, load_tokenizer, render, render_prompt
from tunesmith.stages.evaluate.asking import Opening, Question, Reply, ask, read_opening
from tunesmith.stages.evaluate.candidates import load_candidate, tokenizer_folder
from tunesmith.stages.metrics import correct
from tunesmith.store import write_atomically
from tunesmith.worker import Made, Room

ANSWERS = "answers.jsonl"

Messages = list[dict[str, str]]


class Answered(NamedTuple):
    """One line of answers.jsonl."""

    row: int
    """Index in the held-out file."""
    prompt: str
    """What the model was given, template and all."""
    expected: str
    answer: str
    correct: bool
    nll: float
    """Summed over the row's assistant tokens, nats."""
    num_tokens: int


def evaluate(job: ScoreJob, room: Room) -> Made:
    """The candidate's score: the recipe's metric over its greedy answers, and the mean loss per assistant token.

    Answers are kept batch by batch, so a retry asks only what is left. Rows longer than `max_length` are left out and
    counted. Raises DataError when none remains.
    """
    tokenizer = load_tokenizer(tokenizer_folder(job.model, room.store))
    rows = _rows(room.store.out(job.data) / "evaluation.jsonl", job.spec.rows)
    questions = _questions(tokenizer, rows, job.max_length)
    kept = _Kept(room.scratch / ANSWERS)
    left = [question for question in questions if question.row not in kept.answered]
    for replies in _replies(job, room, tokenizer, left):
        kept.add([_answered(job, tokenizer, rows[question.row], question, reply) for question, reply in replies])
        room.emit("progress", done=len(kept.answered), total=len(questions), unit="row")
    return _conclude(job, room, [kept.answered[question.row] for question in questions], len(rows))


class _Kept:
    """What has been answered, on disk after every batch; a line torn by a kill is asked again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [Answered(**json.loads(line)) for line in lines if line.endswith("\n")]
        self.answered = {one.row: one for one in whole}
        write_atomically(path, _lines(whole).encode())

    def add(self, batch: Sequence[Answered]) -> None:
        with self.path.open("a") as file:
            file.write(_lines(batch))
        self.answered |= {one.row: one for one in batch}


def _lines(answers: Sequence[Answered]) -> str:
    return "".join(json.dumps(one._asdict()) + "\n" for one in answers)


def _rows(path: Path, limit: int | None) -> list[Messages]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["messages"] for line in file][:limit]


def _questions(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Messages], max_length: int) -> list[Question]:
    """The rows as tokens, those over `max_length` left out."""
    questions = []
    for row, messages in enumerate(rows):
        prompt, rendered = render_prompt(tokenizer, messages), render(tokenizer, messages)
        if len(rendered.input_ids) <= max_length:
            questions.append(Question(row, prompt, rendered.input_ids[len(prompt) :], rendered.labels))
    if not questions:
        raise DataError(
            f"None of the {len(rows)} held-out rows fits into {max_length} tokens: "
            "raise train.max_length, or shorten the rows of data.evaluation."
        )
    return questions


def _replies(
    job: ScoreJob, room: Room, tokenizer: PreTrainedTokenizerBase, left: Sequence[Question]
) -> Iterator[list[tuple[Question, Reply]]]:
    """Question and reply, a batch at a time: longest prompts first, so that memory runs out early or never."""
    if not left:
        return
    disable_progress_bar()
    model = load_candidate(job.model, room.store, job.device)
    stops, opening = _stops(model, tokenizer, left[0]), read_opening(model, left)
    ordered = sorted(left, key=lambda question: (-len(question.prompt), question.row))
    for start in range(0, len(ordered), job.spec.batch_size):
        batch = ordered[start : start + job.spec.batch_size]
        yield list(zip(batch, _within_memory(model, opening, batch, job.spec.max_new_tokens, stops), strict=True))


def _within_memory(
    model: nn.Module, opening: Opening, batch: Sequence[Question], max_new_tokens: int, stops: frozenset[int]
) -> list[Reply]:
    """The batch's replies, in halves where the whole does not fit; raises OutOfMemory when one row alone does not."""
    try:
        return ask(model, opening, batch, max_new_tokens, stops)
    except RuntimeError as error:
        if not isinstance(translate(error), OutOfMemory) or len(batch) == 1:
            raise
    half = len(batch) // 2
    return [reply for part in (batch[:half], batch[half:])
            for reply in _within_memory(model, opening, part, max_new_tokens, stops)]  # fmt: skip


def _stops(model: nn.Module, tokenizer: PreTrainedTokenizerBase, example: Question) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's and the model's end tokens, and the template's end of turn."""
    said = getattr(model, "generation_config", None)
    ends = said.eos_token_id if said else None
    turn = {label for label in example.labels if label in tokenizer.all_special_ids}
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset({token for token in [*listed, tokenizer.eos_token_id] if token is not None} | turn)


def _answered(
    job: ScoreJob, tokenizer: PreTrainedTokenizerBase, messages: Messages, question: Question, reply: Reply
) -> Answered:
    text, expected = tokenizer.decode(reply.tokens, skip_special_tokens=True), answer(messages)
    right = correct(job.spec.metric, text, expected)
    return Answered(question.row, tokenizer.decode(question.prompt), expected, text, right, reply.nll, reply.num_tokens)


def _conclude(job: ScoreJob, room: Room, answers: Sequence[Answered], num_rows: int) -> Made:
    (room.out / ANSWERS).write_text(_lines(answers))
    score = sum(one.correct for one in answers) / len(answers)
    num_tokens = sum(one.num_tokens for one in answers)
    nll = sum(one.nll for one in answers) / num_tokens
    artifact = Score(fingerprint=job.fingerprint, score=score, nll=nll, num_rows=len(answers))
    counts = {"num_tokens": num_tokens, "rows_too_long": num_rows - len(answers)}
    return Made(artifact, {"score": score, "nll": nll, **counts})


if __name__ == "__main__":
    worker.main(evaluate)
