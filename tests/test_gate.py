"""The gate objects exactly when a condition fails, and says by how much."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.artifacts import Score
from tunesmith.gate import judge, judge_served
from tunesmith.specs.evaluate import Gate

ROWS = 200
shares = st.integers(0, ROWS).map(lambda right: Fraction(right, ROWS))
limits = st.none() | shares


def score(share: Fraction) -> Score:
    return Score(fingerprint="0" * 16, score=float(share), nll=0.1, num_rows=ROWS)


def gate(min_score: Fraction | None, min_gain: Fraction | None, max_drop: Fraction | None) -> Gate:
    limits = {"min_score": min_score, "min_gain": min_gain, "max_drop": max_drop}
    return Gate.model_validate({name: None if limit is None else float(limit) for name, limit in limits.items()})


@given(limits, limits, limits, shares, shares, shares, shares)
def test_there_is_one_objection_per_failed_condition(
    min_score: Fraction | None,
    min_gain: Fraction | None,
    max_drop: Fraction | None,
    base: Fraction,
    tuned: Fraction,
    merged: Fraction,
    quantized: Fraction,
) -> None:
    """Reckoned in fractions, where 1 - 19/20 is 1/20, not 0.05000000000000004."""
    failed = [
        min_score is not None and tuned < min_score,
        min_gain is not None and tuned - base < min_gain,
        max_drop is not None and tuned - merged > max_drop,
        max_drop is not None and tuned - quantized > max_drop,
    ]
    named = {"base": base, "tuned": tuned, "merged": merged, "quantized": quantized}
    objections = judge(gate(min_score, min_gain, max_drop), {name: score(share) for name, share in named.items()})
    assert len(objections) == sum(failed)
    assert all(objection.endswith(".") and "\n" not in objection for objection in objections)


@given(shares, shares, shares)
def test_an_objection_says_by_how_much(tuned: Fraction, served: Fraction, allowed: Fraction) -> None:
    objection = judge_served(gate(None, None, allowed), float(tuned), float(served))
    assert (objection is None) == (tuned - served <= allowed)
    if objection:
        numbers = [float(number) for number in re.findall(r"\d\.\d+", objection)]
        assert numbers[-1] == pytest.approx(float(tuned - served - allowed), abs=6e-4)


def test_the_sentences_read_well() -> None:
    scores = {"base": Fraction(1, 2), "tuned": Fraction(4, 5), "merged": Fraction(4, 5), "quantized": Fraction(3, 5)}
    strict = gate(Fraction(9, 10), Fraction(2, 5), Fraction(1, 20))
    assert judge(strict, {name: score(share) for name, share in scores.items()}) == (
        "The tuned model scores 0.800; min_score asks for 0.9, 0.100 more.",
        "The tuned model scores 0.800, a gain of 0.300 over the base's 0.500; min_gain asks for 0.4, 0.100 more.",
        "The quantized model scores 0.600, 0.200 below the tuned model's 0.800; "
        "max_drop allows 0.05, which it exceeds by 0.150.",
    )


def test_what_was_not_scored_cannot_pass() -> None:
    assert judge(Gate(), {}) == ("The tuned model was not scored.",)
    (objection,) = judge(gate(None, Fraction(1, 2), None), {"tuned": score(Fraction(1))})
    assert objection == "The base model was not scored; min_gain asks for a gain of 0.5 over it."


def test_a_recipe_without_quantization_is_judged_without_it() -> None:
    passing = {"base": score(Fraction(0)), "tuned": score(Fraction(1)), "merged": score(Fraction(1))}
    assert judge(gate(Fraction(1), Fraction(1), Fraction(0)), passing) == ()
