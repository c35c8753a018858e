"""What the machine has, and what of it a recipe may use."""

from contextlib import suppress
from pathlib import Path

import psutil

from tunesmith.artifacts import Device, Hardware
from tunesmith.errors import DoesNotFit
from tunesmith.specs.hardware import HardwareSpec

_GIB = 2**30
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def detect() -> Hardware:
    """This machine: its NVIDIA GPUs, or the host's memory where there is none.

    Total memory, never what happens to be free: the same machine always gets the same plan.
    """
    gpus, ram_bytes = _gpus(), _ram_bytes()
    return Hardware(
        device="cuda" if gpus else "cpu",
        devices=gpus or _host(ram_bytes),
        ram_bytes=ram_bytes,
        cores=psutil.cpu_count() or 1,
    )


def objection(spec: HardwareSpec, found: Hardware) -> str | None:
    """None, or why the machine is not what the recipe asks for, to follow the name of what asks."""
    if spec.device == "cpu":
        return None
    if spec.device == "cuda" and found.device == "cpu":
        return "needs a CUDA GPU and this machine has none"
    if found.device == "cuda" and (spec.gpus or 1) > len(found.devices):
        return f"asks for {spec.gpus} GPUs and this machine has {len(found.devices)}"
    return None


def available(spec: HardwareSpec, found: Hardware) -> Hardware:
    """What the recipe may use of the machine. Raises DoesNotFit where it asks for more GPUs than there are."""
    if reason := objection(spec, found):
        raise DoesNotFit(f"The recipe {reason}: change hardware in the recipe, or the machine.")
    on_cpu = spec.device == "cpu" or found.device == "cpu"
    devices = _host(found.ram_bytes) if on_cpu else found.devices[: spec.gpus or 1]
    if spec.memory_gib is not None:
        limit = int(spec.memory_gib * _GIB)
        devices = tuple(
            device.model_copy(update={"memory_bytes": min(limit, device.memory_bytes)}) for device in devices
        )
    return found.model_copy(update={"device": "cpu" if on_cpu else "cuda", "devices": devices})


def _host(ram_bytes: int) -> tuple[Device, ...]:
    return (Device(name="host memory", memory_bytes=ram_bytes),)


def _ram_bytes() -> int:
    """Physical memory, or the container's limit where that is lower."""
    limits = [psutil.virtual_memory().total]
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(path.read_text()))
    return min(limits)


def _gpus() -> tuple[Device, ...]:
    """NVIDIA GPUs with their total memory; none without the library, the driver or a card."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(
            Device(name=_text(pynvml.nvmlDeviceGetName(one)), memory_bytes=pynvml.nvmlDeviceGetMemoryInfo(one).total)
            for one in handles
        )
    finally:
        pynvml.nvmlShutdown()


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
