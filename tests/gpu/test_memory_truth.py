"""The bill and the simulation beside real steps on this machine's GPU; minutes, most of them on the card."""

import pytest

from benchmarks.gpu_report import Report, markdown
from benchmarks.gpu_truth import Asked, compare
from tunesmith.hardware import detect

pytestmark = [pytest.mark.gpu, pytest.mark.env]

LEAST_STEPS = 20
TOLERANCES = {"simulation": 2.0, "bill": 3.0}
"""Percent of the tensors at the step's fullest moment."""


@pytest.fixture(scope="module")
def report() -> Report:
    if detect().device == "cpu":
        pytest.skip("needs an NVIDIA GPU")
    *_, whole = compare(Asked())
    print(markdown(whole))
    return whole


def test_enough_steps_were_taken_and_none_failed(report: Report) -> None:
    assert {row.case.name: row.problem for row in report.rows if row.problem} == {}
    assert len(report.ran) >= LEAST_STEPS, f"{len(report.skipped)} do not fit this card"


@pytest.mark.parametrize("predicted", TOLERANCES)
def test_tensors_take_what_was_predicted(report: Report, predicted: str) -> None:
    errors = {row.case.name: row.errors[f"allocated, {predicted}"] for row in report.ran}
    assert {name: error for name, error in errors.items() if abs(error) > TOLERANCES[predicted]} == {}
