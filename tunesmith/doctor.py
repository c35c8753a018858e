"""What of this machine is ready for a run, and what wants mending; a second at most, nothing heavy imported."""

import os
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import NamedTuple

import psutil

from tunesmith.environments import ENVIRONMENTS, health
from tunesmith.errors import StoreNotWritable
from tunesmith.store import Store

MIN_FREE_BYTES = 4 << 30
"""Below this a small model's run already runs out: its download, adapter, merged and quantized copies."""
_ANSWER_SECONDS = 0.5
_GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")


class Finding(NamedTuple):
    """One thing looked at."""

    name: str
    ok: bool
    detail: str
    """What was found; where it is not ok, what to do."""


def examine(store: Path) -> list[Finding]:
    """Environments, devices, memory, the store's disk and Prefect's server, in this order."""
    environments = [_environment(name) for name in ENVIRONMENTS]
    return [*environments, _devices(), _memory(), _store(store), _disk(store), _prefect()]


def _environment(name: str) -> Finding:
    reason = health(name)
    return Finding(f"environment {name}", reason is None, reason or f"whole: {ENVIRONMENTS[name].purpose}")


def _devices() -> Finding:
    try:
        listed = subprocess.run(_GPU_QUERY, capture_output=True, text=True, timeout=10)
    except FileNotFoundError:
        return Finding("devices", True, f"no NVIDIA GPU; {os.cpu_count()} CPU cores")
    except subprocess.TimeoutExpired:
        return Finding("devices", False, "nvidia-smi does not answer: the driver hangs; restart the machine.")
    if listed.returncode != 0:
        said = (listed.stdout + listed.stderr).strip().splitlines()
        return Finding("devices", False, f"nvidia-smi fails ({said[0] if said else 'silent'}): mend the driver.")
    return Finding("devices", True, "; ".join(listed.stdout.strip().splitlines()))


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    return Finding("memory", True, f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free")


def _store(root: Path) -> Finding:
    """Tries to write where the store is, or would be; leaves nothing behind that was not there."""
    existing = _nearest(root)
    if existing != root:
        writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
        advice = f"{existing} cannot be written: choose another --store or fix its permissions."
        return Finding("store", writable, f"{root} will be made by the first run" if writable else advice)
    try:
        Store(root).open()
    except StoreNotWritable as error:
        return Finding("store", False, error.message)
    return Finding("store", True, str(root))


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(_nearest(root)).free
    text = f"{free / 2**30:.1f} GiB free at {root}"
    if free < MIN_FREE_BYTES:
        return Finding("disk", False, f"{text}: free some space or choose another --store.")
    return Finding("disk", True, text)


def _nearest(path: Path) -> Path:
    """The path itself, or the closest parent that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _prefect() -> Finding:
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return Finding("prefect server", True, "PREFECT_API_URL is not set: each run starts a server of its own")
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=_ANSWER_SECONDS):
            return Finding("prefect server", True, f"answers at {address}")
    except (OSError, ValueError) as error:
        advice = "start it with `prefect server start`, or unset PREFECT_API_URL."
        return Finding("prefect server", False, f"{address} does not answer ({error}): {advice}")
