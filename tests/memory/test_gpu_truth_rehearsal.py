"""The GPU benchmark where there is no GPU: its cases, what it skips, its sums, and its readings from a pretended card."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import gpu_device, gpu_truth
from benchmarks.gpu_cases import CASES, FORWARD_BACKWARD, OPTIMIZER, Figures, GpuCase, Phases, billed, fitting
from benchmarks.gpu_report import Report, Row, markdown
from benchmarks.gpu_truth import Asked, Failed, compare, write
from benchmarks.real_steps import Case
from tests.rooms import in_environment
from tunesmith.memory.constants import CUDA_CONTEXT_BYTES, CUDA_SLACK, CUDA_SLACK_NF4, GIB
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.training import step_items, total

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
    allocated = total(step_items(ModelShape.from_config(case.config), case.step))
    slack = CUDA_SLACK_NF4 if case.step.is_nf4 else CUDA_SLACK
    return allocated + int(slack * allocated) + CUDA_CONTEXT_BYTES


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
    assert "| slack | 4.0 % | median 4.0 %, from 4.0 % to 4.0 % |" in said
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


def test_the_driver_is_asked_by_command_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text('#!/bin/sh\necho "$@" >> asked\necho 1234\n')
    command.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_device.used_bytes(1) == 1234 * MIB
    assert gpu_device.driver_version() == "1234"
    assert [line.split()[-1] for line in Path("asked").read_text().splitlines()] == ["GPU-7", "5"]


def test_the_driver_is_asked_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(
        NVMLError=RuntimeError, nvmlInit=lambda: None, nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index, nvmlDeviceGetHandleByUUID=lambda uuid: 100,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=handle * MIB),
        nvmlSystemGetDriverVersion=lambda: b"580.1",
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert [gpu_device.used_bytes(index) for index in (0, 1)] == [5 * MIB, 100 * MIB]
    assert gpu_device.driver_version() == "580.1"


PRETENDED_CARD = """
import json, sys
from unittest.mock import patch
from benchmarks import gpu_constants, gpu_steps
from benchmarks.real_steps import Case, plan_of
from tunesmith.stages import lean
import torch
from tunesmith.stages.train.trainer import settle

log, clock = [], iter(range(1, 1000))

def tick(name):
    log.append(name)
    return next(clock)

fakes = {
    "init": lambda: None,
    "synchronize": lambda: None,
    "max_memory_allocated": lambda: tick("allocated") << 20,
    "max_memory_reserved": lambda: tick("reserved") << 20,
    "reset_peak_memory_stats": lambda: log.append("reset"),
    "memory_allocated": lambda: tick("now") << 20,
    "memory_reserved": lambda: 2 << 20,
}
with patch.multiple(torch.cuda, **fakes), patch.object(gpu_constants, "_DEVICE", "cpu"):
    with patch.object(gpu_constants, "used_bytes", lambda *_: tick("used") << 20):
        context, workspaces = gpu_constants.context(), gpu_constants.workspaces(torch.float32)
    asked = Case("llama", "full", "fp32", length=16, config={"vocab_size": 64, "num_hidden_layers": 1})
    plan = plan_of(asked.step, "cpu")
    settle(0, plan)
    log.clear()
    with gpu_steps.loaded(asked.model_config, plan) as model, patch.object(gpu_steps, "used_bytes", lambda: 9 << 30):
        gpu_steps.randomize(model)
        phases = gpu_steps._peaks_on_cuda(gpu_steps.trainer_of(model, plan, sys.argv[1]), 2 << 30)
print(json.dumps([context, workspaces, log, phases]))
"""


@pytest.mark.env
def test_what_is_read_of_a_pretended_card(tmp_path: Path) -> None:
    """Each reading of it is one MiB more than the last, whatever is read."""
    context, workspaces, log, phases = in_environment("train", PRETENDED_CARD, str(tmp_path))
    assert context == {"context, one tensor": (2 - 1 - 2) * MIB, "context, after matrix products": (3 - 1 - 2) * MIB}
    assert workspaces == {f"cuBLAS, float32, {name}": MIB for name in ("first product", "a bias", "backward")}
    step = ["reset", "allocated", "reserved", "reset", "allocated", "reserved", "reset"]
    assert log == [*step, *step]
    assert [[size // MIB for size in phases[phase]] for phase in (FORWARD_BACKWARD, OPTIMIZER)] == [
        [12, 13, 7 * 1024],
        [14, 15, 7 * 1024],
    ]
    assert list(tmp_path.iterdir()) == []


HOLLOW = """
import json, sys
from pathlib import Path
from benchmarks.gpu_steps import loaded, randomize
from benchmarks.memory_truth import _storages
from benchmarks.real_steps import Case, loaded as saved, plan_of
sizes = {"num_hidden_layers": 1, "vocab_size": 256}
found = []
for case in (Case("qwen2", "full", "bf16", config=sizes), Case("llama", "qlora", "amp", tied=False, config=sizes)):
    with loaded(case.model_config, plan_of(case.step)) as hollow, saved(case.model_config, case.step) as whole:
        randomize(hollow)
        weights = [sorted((name, str(one.dtype), list(one.shape)) for name, one in model.named_parameters())
                   for model in (hollow, whole)]
        zeros = [name for name, one in hollow.named_parameters() if not one.any()]
        found.append([*weights, [sum(_storages(model).values()) for model in (hollow, whole)], zeros])
print(json.dumps(found))
"""


@pytest.mark.env
def test_a_hollow_file_gives_the_model_that_a_saved_one_gives() -> None:
    for hollow, whole, (size, expected), zeros in in_environment("train", HOLLOW):
        assert hollow == whole
        assert size == expected
        assert zeros == []
