"""Which interpreter a stage runs in, and whether that environment is whole.

`make env` builds `.venv` (the orchestrator, here called `main`) and `.envs/<name>`, each from a lock file in
`locks/`, checks that its libraries import, and leaves a stamp with the lock's hash. Health is read from that stamp.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

from tunesmith.errors import EnvironmentMissing

CHECKOUT = Path(__file__).resolve().parents[1]

STAMP = "tunesmith-lock.sha256"


class Environment(NamedTuple):
    """One row: where it is, what it is for, and what must import in it."""

    folder: str
    purpose: str
    imports: tuple[str, ...]


ENVIRONMENTS: dict[str, Environment] = {
    "main": Environment(
        ".venv", "Prefect, the command line, download, serving control", ("prefect", "typer", "openai")
    ),
    "train": Environment(
        ".envs/train", "train, merge, quantize, evaluate", ("torch", "transformers", "peft", "gptqmodel")
    ),
    "serve": Environment(".envs/serve", "vLLM and vllm-router", ("torch", "vllm")),
}


def home() -> Path:
    """The folder that holds `.envs/`: TUNESMITH_HOME, or the checkout."""
    return Path(os.environ.get("TUNESMITH_HOME", CHECKOUT))


def interpreter(name: str) -> Path:
    """The Python of an environment; TUNESMITH_PYTHON_<NAME> overrides. Raises EnvironmentMissing with the reason."""
    if reason := health(name):
        raise EnvironmentMissing(reason)
    return _python(name)


def health(name: str) -> str | None:
    """None, or why stages of this environment cannot run and the command that mends it."""
    if name == "main" or f"TUNESMITH_PYTHON_{name.upper()}" in os.environ:
        return (
            None
            if _python(name).exists()
            else f"{_python(name)} does not exist: set TUNESMITH_PYTHON_{name.upper()} right."
        )
    if not _python(name).exists():
        return f"The environment {name} is not built: run `make env-{name}` in {home()}."
    stamp = home() / ENVIRONMENTS[name].folder / STAMP
    if not stamp.exists():
        return f"The environment {name} was left half built: run `make env-{name}` in {home()}."
    if (lock := lock_hash(name)) and stamp.read_text().split()[0] != lock:
        return f"The environment {name} is older than its lock file: run `make env-{name}` in {home()}."
    return None


def lock_hash(name: str) -> str | None:
    """sha256 of the lock file the environment is built from (per device), None outside a checkout."""
    lock = lock_file(name, _device(name))
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else None


def lock_file(name: str, device: str) -> Path:
    """Where an environment's exact versions are listed; one whose packages do not depend on the device has one list."""
    shared = home() / "locks" / f"{name}.txt"
    return shared if shared.exists() else home() / "locks" / f"{name}-{device}.txt"


def _device(name: str) -> str:
    """Which build is installed: the stamp's second word; `cpu` until there is one."""
    stamp = home() / ENVIRONMENTS[name].folder / STAMP
    words = stamp.read_text().split() if stamp.exists() else []
    return words[1] if len(words) > 1 else "cpu"


def _python(name: str) -> Path:
    if override := os.environ.get(f"TUNESMITH_PYTHON_{name.upper()}"):
        return Path(override)
    return Path(sys.executable) if name == "main" else home() / ENVIRONMENTS[name].folder / "bin" / "python"
