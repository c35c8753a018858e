"""The GPU benchmark where there is no GPU: its cases, what it skips, its sums, and what survives a failure."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_truth
from benchmarks.gpu_cases import CASES, FORWARD_BACKWARD, OPTIMIZER, Figures, GpuCase, Phases, billed, fitting
from benchmarks.gpu_report import Report, Row, markdown
from benchmarks.gpu_truth import Asked, Failed, compare, write
from benchmarks.real_steps import Case
from tunesmith.memory.constants import CUDA_CONTEXT_BYTES, GIB
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.slack import step_slack
from tunesmith.memory.training import moments, step_items, total

MIB = 2**20
TINY = GpuCase(Case("llama", "lora", "bf16"))
MACHINE = {"name": "Card", "memory_bytes": 80 * GIB, "gpus": 1, "driver": "1", "expandable": True, "versions": {}}


def test_the_cases_are_many_and_differ() -> None:
    assert len(CASES) >= 20
    assert len({case.name for case in CASES}) == len(CASES)
    steps = [case.step for case in CASES]
    assert {step.method.method for step in steps} == {"full", "lora", "qlora"}
    assert {step.arithmetic for step in steps} == {"fp32", "amp", "bf16"}
    assert {step.optimizer for step in steps} == {"adamw_fused", "adamw_foreach", "adamw_8bit", "paged_adamw_8bit"}
    assert {step.attention for step in steps} == {"sdpa", "eager"}
    assert {step.loss for step in steps} == {"full", "chunked"}
    assert {step.gradient_checkpointing for step in steps} == {step.accumulates for step in steps} == {True, False}
    assert all(step.method.max_steps == 2 for step in steps)


def test_models_go_from_small_to_8_billion_weights() -> None:
    params = {case.name: ModelShape.from_config(case.config).params for case in CASES}
    assert min(params.values()) < 5e7 and max(params.values()) > 8e9
    large = {case.step.method.method for case in CASES if params[case.name] > 7e9}
    assert large == {"full", "lora", "qlora"}


def test_there_is_a_rehearsal() -> None:
    assert {case.step.method.method for case in CASES if case.runs_on_cpu} == {"full", "lora", "qlora"}


def test_a_card_takes_exactly_what_is_billed_no_more_than_it_has() -> None:
    taken, left = fitting(CASES, 24 * GIB)
    assert [case.name for case in CASES if _billed(case) > 24 * GIB] == [case.name for case in left] != []
    assert sorted(case.name for case in (*taken, *left)) == sorted(case.name for case in CASES)
    assert len(taken) >= 20


def _billed(case: GpuCase) -> int:
    shape = ModelShape.from_config(case.config)
    slack = step_slack(shape, case.step, moments(shape, case.step))
    return total(step_items(shape, case.step)) + slack + CUDA_CONTEXT_BYTES


def test_an_unknown_repo_is_an_error() -> None:
    with pytest.raises(LookupError, match="someone/else is not in the catalogue"):
        _ = TINY._replace(repo="someone/else").config


def predicted(factor: float) -> Phases:
    """The bill's figures of tensors, times that."""
    return {phase: Figures(int(factor * one.allocated)) for phase, one in billed(TINY).items()}


def test_workspaces_count_as_context_and_not_as_tensors() -> None:
    bill = billed(TINY)
    real = {
        phase: Figures(one.allocated + 64 * MIB, (one.reserved or 0) + 64 * MIB, one.device)
        for phase, one in bill.items()
    }
    row = Row(TINY, real, predicted(1.01), workspace=64 * MIB)
    assert {name: round(error, 3) for name, error in row.errors.items()} == {
        "allocated, bill": 0.0, "reserved, bill": 0.0, "device, bill": 0.0, "allocated, simulation": 1.0,
    }  # fmt: skip
    said = markdown(Report(MACHINE, [row], [], 80 * GIB, {"context, one tensor": 400 * MIB, "NCCL": None}))
    assert "| context, one tensor | 512.0 MiB | 400.0 MiB |" in said
    assert "| NCCL | 512.0 MiB | not measured |" in said
    # All the bill's context is in use, and nothing beyond it.
    assert "with cuBLAS's workspaces | 512.0 MiB | median 512.0 MiB, from 512.0 MiB to 512.0 MiB |" in said
    fullest = max(bill.values(), key=lambda one: one.allocated)
    share = f"{100 * ((fullest.reserved or 0) / fullest.allocated - 1):.1f} %"
    assert f"| slack | median {share}, from {share} to {share} | median {share}, from {share} to {share} |" in said
    assert "- allocated, simulation: median of |error| 1.00 %, worst +1.00 %." in said


def answers(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """Every process of the train environment answers at once; the one whose question holds `broken` fails."""

    def answer(*arguments: str, **variables: str) -> dict[str, Any]:
        if broken in arguments[-1]:
            raise Failed("torch.OutOfMemoryError: CUDA out of memory.")
        if arguments[1] == "machine":
            return MACHINE
        if arguments[0].endswith("gpu_constants.py"):
            return {arguments[1]: 32 * MIB}
        return {"phases": {FORWARD_BACKWARD: [GIB, GIB, 2 * GIB], OPTIMIZER: [GIB, GIB, 2 * GIB]}, "workspace": 0}

    monkeypatch.setattr(gpu_truth, "_answer", answer)


def test_a_case_that_fails_loses_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, broken='"dropout": 0.1')
    reports = list(compare(Asked(only="small", limit_gib=1.5)))
    whole = reports[-1]
    assert [len(report.rows) for report in reports] == [*range(1, len(whole.rows) + 1), len(whole.rows)]
    assert [row.problem for row in whole.rows if row.problem] == ["torch.OutOfMemoryError: CUDA out of memory."]
    assert all(row.errors for row in whole.rows if not row.problem)
    assert {case.name for case in whole.skipped} == {
        case.name for case in CASES if case.repo is None and _billed(case) > 1.5 * GIB
    }
    assert whole.constants == {
        "context": 32 * MIB, "float32": 32 * MIB, "bfloat16": 32 * MIB, "NCCL, needs two GPUs": None,
    }  # fmt: skip
    write(whole, tmp_path)
    raw = json.loads((tmp_path / "gpu_truth.json").read_text())
    assert [row["problem"] for row in raw["rows"]] == [row.problem for row in whole.rows]
    assert "## Failed" in (said := (tmp_path / "gpu_truth.md").read_text()) and "## Skipped" in said


def test_a_simulation_that_fails_leaves_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, broken="nowhere")
    taken = gpu_truth._step

    def step(verb: str, case: GpuCase, device: str) -> dict[str, Any]:
        if verb == "simulate":
            raise Failed("no such model")
        return taken(verb, case, device)

    monkeypatch.setattr(gpu_truth, "_step", step)
    *_, whole = compare(Asked(only="dropout"))
    assert [row.problem for row in whole.rows] == ["simulation: no such model"]
    assert list(whole.ran[0].errors) == ["allocated, bill", "reserved, bill", "device, bill"]


def test_two_gpus_measure_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_truth, "_answer", lambda *arguments: {"NCCL, two GPUs": len(arguments)})
    assert gpu_truth._nccl(2) == {"NCCL, two GPUs": 7}


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_truth, "_answer", lambda *_: MACHINE | {"name": None})
    with pytest.raises(Failed, match="needs an NVIDIA GPU"):
        next(compare(Asked()))
