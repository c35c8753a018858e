"""What the NVIDIA driver says of a GPU: by nvidia-ml-py where it is installed, else by the nvidia-smi command."""

import os
import subprocess
from typing import Any

_MIB = 2**20


def used_bytes(index: int = 0) -> int | None:
    """Memory in use on a visible GPU by whatever program; None where nothing tells."""
    if (library := _library()) is None:
        said = _asked("memory.used", index)
        return int(said) * _MIB if said and said.isdigit() else None
    try:
        used: int = library.nvmlDeviceGetMemoryInfo(_handle(library, index)).used
    finally:
        library.nvmlShutdown()
    return used


def driver_version() -> str | None:
    if (library := _library()) is None:
        return _asked("driver_version", 0)
    try:
        found = library.nvmlSystemGetDriverVersion()
    finally:
        library.nvmlShutdown()
    return found.decode() if isinstance(found, bytes) else str(found)


def _library() -> Any:
    """pynvml, started; None where it or the driver is not installed."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _handle(library: Any, index: int) -> Any:
    name = _visible(index)
    return library.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else library.nvmlDeviceGetHandleByUUID(name)


def _visible(index: int) -> str:
    """The driver's number or UUID of a GPU that torch calls `index`; both must count in the order of the bus."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",")[index].strip() if listed else str(index)


def _asked(what: str, index: int) -> str | None:
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", "-i", _visible(index)]
    try:
        done = subprocess.run(command, text=True, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
