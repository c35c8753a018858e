"""Whether an answer counts. No model in here: the evaluate stage and the live endpoint are judged by the same words."""

import json
from collections.abc import Sequence
from typing import Any

from tunesmith.errors import DataError
from tunesmith.specs.evaluate import Metric


def score_answers(metric: Metric, answers: Sequence[str], expected: Sequence[str]) -> float:
    """Share of answers that count, 0 to 1. Raises DataError when there is nothing to score."""
    if not expected:
        raise DataError("There is no held-out row to score: put at least one into data.evaluation.")
    marks = [correct(metric, answer, wanted) for answer, wanted in zip(answers, expected, strict=True)]
    return sum(marks) / len(marks)


def correct(metric: Metric, answer: str, expected: str) -> bool:
    """Whether one answer counts. Raises DataError when the metric cannot be applied to the expected answer."""
    if metric == "exact_match":
        return answer.strip() == expected.strip()
    try:
        wanted = _parse(expected)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"The metric json_equal needs JSON answers in the held-out rows, and {expected[:60]!r} is none: "
            "mend the row or set evaluate.metric to exact_match."
        ) from error
    try:
        return _same(_parse(answer), wanted)
    except (ValueError, RecursionError):
        return False


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON values: to Python `true == 1`, to JSON it is not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
