"""The held-out rows a live engine is judged by, and how the tuned model did on the very same ones."""

import json
from typing import NamedTuple

from tunesmith.data.dataset import EVALUATION, load_rows
from tunesmith.data.rows import Row
from tunesmith.errors import CorruptArtifact
from tunesmith.jobs import ServeJob
from tunesmith.store import Store

_ANSWERS = "answers.jsonl"
"""What the evaluate stage leaves: one object a line with `row` and `correct`."""


class HeldOut(NamedTuple):
    rows: tuple[Row, ...]
    tuned_score: float
    """Of the tuned model: on these rows where its answers were kept, else on all."""


def held_out(job: ServeJob, store: Store) -> HeldOut:
    """The first `served_rows` rows the tuned model was asked. Raises CorruptArtifact when it was not scored."""
    rows = load_rows(store.out(job.data) / EVALUATION)
    tuned = job.evaluation.scores.get("tuned")
    if tuned is None:
        raise CorruptArtifact(
            "The evaluation holds no score of the tuned model: run the same command to make it again."
        )
    path = store.out(tuned) / _ANSWERS
    if not path.exists():
        return HeldOut(tuple(rows[: job.evaluate.served_rows]), tuned.score)
    marks = {said["row"]: bool(said["correct"]) for said in map(json.loads, path.read_text().splitlines())}
    chosen = sorted(marks)[: job.evaluate.served_rows]
    return HeldOut(tuple(rows[row] for row in chosen), sum(marks[row] for row in chosen) / len(chosen))
