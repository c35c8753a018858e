"""Writes `locks/` anew from pyproject.toml: what `make lock` runs, with uv from a folder of its own.

Versions already in a lock are kept where the requirements allow it; delete the file first to move everything up.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tunesmith.environments import CHECKOUT

_HEADER = """\
# Written by `make lock` from pyproject.toml; `make env` installs exactly these, with --no-deps.
# No hashes: the torch build differs by machine (CPU or CUDA, one index or another), its version does not.
"""
_NO_VISION = """\
# Left out on purpose: torchvision, torchaudio, torchcodec. A registry may hold CUDA builds of them next to a CPU
# build of torch; then vLLM does not start. It starts without them.
"""
_UV = CHECKOUT / ".envs" / "lock" / "bin" / "uv"
_PLATFORM = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")
_VISION = ("torchvision", "torchaudio", "torchcodec")


class Lock(NamedTuple):
    """One file of `locks/`: which extras of pyproject.toml it pins, and for which device."""

    name: str
    extras: tuple[str, ...]
    device: str
    note: str = ""
    omit: tuple[str, ...] = ()


LOCKS = (
    Lock("main", ("orchestrator", "dev"), "any"),
    Lock("train-cpu", ("train",), "cpu"),
    Lock("train-cuda", ("train",), "cuda"),
    Lock("serve-cpu", ("serve-cpu",), "cpu", _NO_VISION, _VISION),
    Lock("serve-cuda", ("serve-cuda",), "cuda"),
)


def main() -> int:
    """0 when every lock was written, else 1 with the resolver's own words."""
    for lock in LOCKS:
        path = CHECKOUT / "locks" / f"{lock.name}.txt"
        resolved = resolve(lock, path.read_text() if path.exists() else "")
        if resolved is None:
            return 1
        path.write_text(_HEADER + lock.note + resolved)
        print(f"{len(resolved.splitlines()):4} packages  {path.relative_to(CHECKOUT)}")
    return 0


def resolve(lock: Lock, kept: str) -> str | None:
    """The pins, one a line, sorted; `kept` is the lock as it was. None when there is no solution (uv has said why)."""
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "pinned.txt"
        # The lock names the public version; among its builds only the CPU one leaves the CUDA libraries out.
        pinned.write_text(re.sub(r"^(torch==\S+)$", r"\1+cpu", kept, flags=re.M) if lock.device == "cpu" else kept)
        if subprocess.run(_command(lock, pinned), cwd=CHECKOUT, env=_environment(lock)).returncode:
            return None
        return _public(pinned.read_text())


def _command(lock: Lock, pinned: Path) -> list[str]:
    extras = [word for extra in lock.extras for word in ("--extra", extra)]
    omit = [word for name in lock.omit for word in ("--no-emit-package", name)]
    quiet = ("--quiet", "--no-header", "--no-annotate", "--no-config", "-o", str(pinned))
    return [str(_UV), "pip", "compile", "pyproject.toml", *extras, *omit, *_PLATFORM, *quiet, *_source(lock)]


def _source(lock: Lock) -> tuple[str, ...]:
    """Where the CPU build of torch comes from: the wheels pip is set up to find, else PyTorch's own index."""
    if lock.device != "cpu":
        return ()
    folders = os.environ.get("PIP_FIND_LINKS") or _pip_setting("global.find-links")
    return ("--find-links", folders) if folders else ("--torch-backend", "cpu")


def _pip_setting(key: str) -> str:
    command = [sys.executable, "-m", "pip", "config", "get", key]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _environment(lock: Lock) -> dict[str, str]:
    """The caller's, with pip's certificates for uv; a CUDA lock must not meet a folder of local CPU wheels."""
    env = {key: value for key, value in os.environ.items() if lock.device == "cpu" or key != "UV_FIND_LINKS"}
    if certificates := os.environ.get("PIP_CERT"):
        env.setdefault("SSL_CERT_FILE", certificates)
    return env


def _public(pins: str) -> str:
    """The pins without comments and without local build names such as `+cpu`."""
    lines = (line.partition("+")[0].strip() for line in pins.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("#"))


if __name__ == "__main__":
    sys.exit(main())
