"""One environment to build: where it is, what belongs in it, how the checkout is linked into it, and its stamp."""

import hashlib
import subprocess
from pathlib import Path
from typing import NamedTuple

from tunesmith.environments import CHECKOUT, ENVIRONMENTS, STAMP, lock_file

PYTHON_VERSION = (3, 11)
_LAUNCHER = """#!/bin/sh
'''exec' "{folder}/bin/python" "$0" "$@"
' '''
import sys

from tunesmith.cli import main

sys.exit(main())
"""
"""The console script: /bin/sh starts the interpreter, because a `#!` line can hold neither a space nor a long path."""


class Target(NamedTuple):
    """One environment to build."""

    name: str
    folder: Path
    lock: Path
    device: str
    imports: tuple[str, ...]
    log: Path
    """What its build printed, appended per build."""

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> str:
        """What the finished environment's stamp says: `<sha256 of the lock> <device>`."""
        return f"{hashlib.sha256(self.lock.read_bytes()).hexdigest()} {self.device}"


def target(name: str, device: str) -> Target:
    """The row of ENVIRONMENTS called `name`, for `device`; its folder and lock are the checkout's."""
    row = ENVIRONMENTS[name]
    lock = lock_file(name, device)
    built_for = device if lock.stem.endswith(device) else "cpu"
    log = CHECKOUT / ".envs" / f"{name}.log"
    return Target(name, CHECKOUT / row.folder, lock, built_for, row.imports, log)


def detect_device() -> str:
    """`cuda` where the NVIDIA driver lists a GPU, else `cpu`."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "cuda" if listed.returncode == 0 and "GPU" in listed.stdout else "cpu"


def link_file(target: Target) -> Path:
    """Where site-packages says where the checkout is."""
    version = ".".join(map(str, PYTHON_VERSION))
    return target.folder / "lib" / f"python{version}" / "site-packages" / "tunesmith.pth"


def link_checkout(target: Target) -> None:
    """Makes `import tunesmith` find this checkout, and gives `.venv` the `tunesmith` command."""
    _write(link_file(target), f"{CHECKOUT}\n")
    if target.name == "main":
        script = target.folder / "bin" / "tunesmith"
        _write(script, _LAUNCHER.format(folder=target.folder))
        script.chmod(0o755)


def write_stamp(target: Target) -> None:
    beside = target.folder / f".{STAMP}"
    beside.write_text(target.stamp + "\n")
    beside.replace(target.folder / STAMP)


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
