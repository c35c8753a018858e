"""Builds the environments of `tunesmith/environments.py` from their locks: what `make env` runs.

    python3.11 -m deploy.build_env [NAME ...]

Needs Python 3.11 and a package index, nothing installed. An environment gets its stamp last, after its libraries
were imported, so a half-built one never passes for a whole one. Built ones are looked at and left alone.
"""

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from deploy.blame import explain
from deploy.diagnose import Verdict, examine
from deploy.probe import pins
from deploy.target import PYTHON_VERSION, Target, detect_device, link_checkout, target, write_stamp
from tunesmith.environments import CHECKOUT, ENVIRONMENTS, STAMP

_PIP = ("-m", "pip", "--no-input", "--disable-pip-version-check")


class BuildFailed(Exception):
    """One sentence, or what the log ends with."""


class ImportsFail(BuildFailed):
    """All is installed, and yet it does not work."""


def main() -> int:
    """0 when every environment asked for is whole, else 1 with a sentence for each that is not."""
    options = _options()
    if sys.version_info[:2] != PYTHON_VERSION:
        print(
            f"error: the locks are for Python {'.'.join(map(str, PYTHON_VERSION))}: run this with it.", file=sys.stderr
        )
        return 1
    targets = [target(name, options.device) for name in options.names]
    with ThreadPoolExecutor(max_workers=len(targets)) as pool:
        failures = [failure for failure in pool.map(ensure, targets) if failure]
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if failures else 0


def ensure(target: Target) -> str | None:
    """Builds, finishes or leaves an environment: None when it is whole in the end, else a sentence saying why not."""
    began = time.monotonic()
    try:
        with _alone(target):
            verdict = examine(target)
            if verdict.action != "keep":
                _say(target, f"{verdict.reason}; building for {target.device}, log in {_shown(target.log)}")
                _build(target, verdict)
            link_checkout(target)
    except BuildFailed as failure:
        return str(failure)
    except OSError as error:
        return f"{target.name}: {error.filename or target.folder}: {error.strerror}."
    _say(target, "whole" if verdict.action == "keep" else f"ready after {time.monotonic() - began:.0f} s")
    return None


def _build(target: Target, verdict: Verdict) -> None:
    """Builds what the verdict asks for; one that cannot be finished is built from nothing."""
    (target.folder / STAMP).unlink(missing_ok=True)
    if verdict.action == "finish":
        try:
            return _complete(target, verdict.faults)
        except ImportsFail:
            _say(target, "cannot be finished: building it from nothing")
    _wipe(target.folder)
    _run(target, "making the folder", sys.executable, "-m", "venv", str(target.folder))
    return _complete(target)


def _complete(target: Target, faults: tuple[str, ...] = ()) -> None:
    _install(target, faults)
    link_checkout(target)
    modules = ", ".join(target.imports)
    try:
        _run(target, f"importing {modules}", str(target.python), "-c", f"import {modules}")
    except BuildFailed as failure:
        raise ImportsFail(str(failure)) from failure
    write_stamp(target)


def _install(target: Target, faults: tuple[str, ...]) -> None:
    wanted = pins(target.lock)
    if "torch" in wanted:
        # With its dependencies, which differ by build; the lock's own list then finds it there and leaves it.
        torch = f"torch=={wanted['torch']}"
        _run(target, f"installing {torch}", *_pip(target, "install", torch))
    # The lock is complete, so nothing is resolved and nothing comes along uninvited.
    _run(
        target,
        f"installing {len(wanted)} packages",
        *_pip(target, "install", "--no-deps", "-r", str(target.lock)),
    )
    if again := [f"{name}=={wanted[name]}" for name in faults]:
        words = _pip(target, "install", "--no-deps", "--force-reinstall", *again)
        _run(target, f"installing {len(again)} again", *words)


def _pip(target: Target, *words: str) -> tuple[str, ...]:
    # Compiling everything doubles the work; Python compiles what is used at its first import. An image, where the
    # user who imports may not write, asks for all of it.
    compiling = "--compile" if os.environ.get("COMPILE") else "--no-compile"
    return (str(target.python), *_PIP, *words, compiling, "--progress-bar", "off")


def _run(target: Target, step: str, *command: str) -> None:
    """Runs one step with its output in the log; raises BuildFailed with the cause and the log's end."""
    _say(target, step)
    # A PYTHONPATH or PYTHONHOME of the user's shell would leak other packages into the environment.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with target.log.open("a") as log:
        print(f"\n$ {' '.join(command)}", file=log, flush=True)
        start = log.tell()
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean).returncode
    if code != 0:
        said = target.log.read_text(errors="replace")[start:]
        raise BuildFailed(f"{target.name}: {step} failed: {explain(said)} Log: {_shown(target.log)}")


def _wipe(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


@contextmanager
def _alone(target: Target) -> Iterator[None]:
    """Holds the environment: a second `make env` waits here and then finds it whole."""
    target.log.parent.mkdir(exist_ok=True)
    with (target.log.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _shown(path: Path) -> Path:
    return path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path


def _say(target: Target, text: str) -> None:
    print(f"{target.name:>5}  {text}", flush=True)


def _name(word: str) -> str:
    if word not in ENVIRONMENTS:
        raise argparse.ArgumentTypeError(f"there is no environment {word}: choose from {', '.join(ENVIRONMENTS)}")
    return word


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make env", description="Builds or repairs the environments.")
    parser.add_argument("names", nargs="*", type=_name, default=[*ENVIRONMENTS], metavar="NAME")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=os.environ.get("DEVICE") or detect_device())
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
