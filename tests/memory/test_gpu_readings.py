"""What the GPU benchmark reads, from a pretended driver and a pretended card, and the model it trains."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import gpu_device
from benchmarks.gpu_cases import FORWARD_BACKWARD, OPTIMIZER
from tests.rooms import in_environment

MIB = 2**20


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
