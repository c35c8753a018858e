"""What must hold before a model is served, and by how much it does not."""

from collections.abc import Mapping

from tunesmith.artifacts import Score
from tunesmith.specs.evaluate import Gate

_ROUNDING = 1e-9
"""Scores are shares of a row count: 1 - 0.95 must not exceed 0.05 for the way doubles round."""


def judge(gate: Gate, scores: Mapping[str, Score]) -> tuple[str, ...]:
    """The gate's objections to these candidates, each a sentence with its numbers; empty when it holds.

    `scores` is by candidate: `tuned`, `base`, and those of `merged` and `quantized` that were made. A condition about
    a candidate that was not scored is an objection too.
    """
    tuned = scores.get("tuned")
    if tuned is None:
        return ("The tuned model was not scored.",)
    drops = [
        judge_drop(gate, name, tuned.score, scores[name].score) for name in ("merged", "quantized") if name in scores
    ]
    found = [_too_low(gate, tuned.score), _gains_too_little(gate, tuned.score, scores.get("base")), *drops]
    return tuple(objection for objection in found if objection)


def judge_served(gate: Gate, tuned: float, served: float) -> str | None:
    """The objection to the live endpoint's score, given the tuned model's on the same rows, or None."""
    return judge_drop(gate, "served", tuned, served)


def judge_drop(gate: Gate, name: str, tuned: float, score: float) -> str | None:
    """The objection to a candidate made from the tuned model, or None."""
    if gate.max_drop is None or _at_most(tuned - score, gate.max_drop):
        return None
    return (
        f"The {name} model scores {score:.3f}, {tuned - score:.3f} below the tuned model's {tuned:.3f}; "
        f"max_drop allows {gate.max_drop:g}, which it exceeds by {tuned - score - gate.max_drop:.3f}."
    )


def _too_low(gate: Gate, tuned: float) -> str | None:
    if gate.min_score is None or _at_most(gate.min_score, tuned):
        return None
    return (
        f"The tuned model scores {tuned:.3f}; min_score asks for {gate.min_score:g}, {gate.min_score - tuned:.3f} more."
    )


def _gains_too_little(gate: Gate, tuned: float, base: Score | None) -> str | None:
    if gate.min_gain is None:
        return None
    if base is None:
        return f"The base model was not scored; min_gain asks for a gain of {gate.min_gain:g} over it."
    gain = tuned - base.score
    if _at_most(gate.min_gain, gain):
        return None
    return (
        f"The tuned model scores {tuned:.3f}, a gain of {gain:.3f} over the base's {base.score:.3f}; "
        f"min_gain asks for {gate.min_gain:g}, {gate.min_gain - gain:.3f} more."
    )


def _at_most(value: float, limit: float) -> bool:
    return value <= limit + _ROUNDING
