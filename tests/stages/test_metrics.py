"""Which answers count."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tunesmith.errors import DataError
from tunesmith.stages.metrics import correct, score_answers

leaves = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1e6, 1e6) | st.text(max_size=5)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
spaces = st.text(" \t\n", max_size=4)


def shuffled(value: Any, seed: int) -> Any:
    """The same JSON value with its keys in another order."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: hash((seed, key)))
        return {key: shuffled(value[key], seed) for key in keys}
    return [shuffled(item, seed) for item in value] if isinstance(value, list) else value


def typed(value: Any) -> Any:
    """A value in which `true` and `1` differ, and `1` and `1.0` do not."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return ("truth", value) if isinstance(value, bool) else value


@given(st.text(), spaces, spaces)
def test_outer_white_space_does_not_spoil_an_exact_match(text: str, before: str, after: str) -> None:
    assert correct("exact_match", before + text + after, text)


@given(st.text(), st.text())
def test_any_other_difference_does(one: str, other: str) -> None:
    assert correct("exact_match", one, other) == (one.strip() == other.strip())


@given(values, st.integers(), st.sampled_from([None, 1, 4]))
def test_json_is_equal_whatever_its_key_order_and_spacing(value: Any, seed: int, indent: int | None) -> None:
    assert correct("json_equal", json.dumps(shuffled(value, seed), indent=indent), json.dumps(value))


@given(values, values)
def test_json_that_says_something_else_is_not_equal(one: Any, other: Any) -> None:
    assume(typed(one) != typed(other))
    assert not correct("json_equal", json.dumps(one), json.dumps(other))


@pytest.mark.parametrize("answer", ["", "{", "Here you are: {}", "{} {}", "NaN", "[" * 100_000])
def test_an_answer_that_is_no_json_is_wrong_and_no_crash(answer: str) -> None:
    assert not correct("json_equal", answer, "{}")


def test_json_equal_refuses_expected_answers_that_are_no_json() -> None:
    with pytest.raises(DataError, match="to exact_match"):
        correct("json_equal", "{}", "two red lamps")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_the_score_is_the_share_that_counts(pairs: list[tuple[str, str]]) -> None:
    answers, expected = [one for one, _ in pairs], [other for _, other in pairs]
    score = score_answers("exact_match", answers, expected)
    assert score * len(pairs) == pytest.approx(sum(one == other for one, other in pairs))


def test_nothing_to_score_is_said_so() -> None:
    with pytest.raises(DataError, match="no held-out row"):
        score_answers("exact_match", [], [])
