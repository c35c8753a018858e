"""What the machine has, and what a recipe may use of it."""

import sys

import psutil
import pytest

from tests.memory.cases import cpu, gpu
from tunesmith import hardware
from tunesmith.errors import DoesNotFit
from tunesmith.memory.constants import GIB
from tunesmith.specs.hardware import HardwareSpec


def test_detection_is_repeatable_and_within_the_machine() -> None:
    found = hardware.detect()
    assert found == hardware.detect()
    assert 0 < found.ram_bytes <= psutil.virtual_memory().total
    assert found.devices
    if found.device == "cpu":
        assert found.devices[0].memory_bytes == found.ram_bytes


def test_without_nvidias_library_the_machine_is_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert hardware.detect().device == "cpu"


def test_the_recipe_limits_what_is_used() -> None:
    spec = HardwareSpec(memory_gib=20)
    assert hardware.available(spec, gpu(24, count=4)).devices[0].memory_bytes == 20 * GIB
    assert len(hardware.available(spec, gpu(24, count=4)).devices) == 1
    assert len(hardware.available(HardwareSpec(gpus=2), gpu(24, count=4)).devices) == 2
    assert hardware.available(HardwareSpec(memory_gib=100), gpu(24)).devices[0].memory_bytes == 24 * GIB


def test_a_recipe_may_leave_the_gpu_alone() -> None:
    found = hardware.available(HardwareSpec(device="cpu"), gpu(24, ram_gib=64))
    assert found.device == "cpu"
    assert found.devices[0].memory_bytes == 64 * GIB


def test_asking_for_what_is_not_there() -> None:
    assert hardware.objection(HardwareSpec(device="auto"), cpu()) is None
    assert hardware.objection(HardwareSpec(device="cuda"), cpu()) == "needs a CUDA GPU and this machine has none"
    with pytest.raises(DoesNotFit, match="The recipe asks for 4 GPUs and this machine has 2: change hardware"):
        hardware.available(HardwareSpec(gpus=4), gpu(24, count=2))
