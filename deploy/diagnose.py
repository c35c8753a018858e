"""Whether an environment is whole, wants finishing, or must be built from nothing."""

import json
import subprocess
from typing import Literal, NamedTuple, TypedDict

from deploy.target import PYTHON_VERSION, Target, link_file
from tunesmith.environments import CHECKOUT, STAMP


class Verdict(NamedTuple):
    """What to do with an environment, and why."""

    action: Literal["keep", "finish", "rebuild"]
    reason: str
    faults: tuple[str, ...] = ()
    """Packages to install anew though they look installed."""


class _Seen(TypedDict):
    """What `probe.py` prints."""

    version: list[int]
    faults: list[str]
    absent: list[str]


def examine(target: Target) -> Verdict:
    """Whether the environment is whole, wants finishing, or must be built from nothing."""
    if not target.folder.exists():
        return Verdict("rebuild", "not built yet")
    seen = _probe(target)
    if seen is None:
        return Verdict("rebuild", "its interpreter does not start")
    if seen["version"] != [*PYTHON_VERSION]:
        return Verdict("rebuild", f"it runs Python {'.'.join(map(str, seen['version']))}")
    if (link := link_file(target)).exists() and link.read_text().strip() != str(CHECKOUT):
        return Verdict("rebuild", "it belongs to another checkout, or this one was moved")
    return _judge(target, seen)


def _judge(target: Target, seen: _Seen) -> Verdict:
    """The verdict on an environment that starts, from its stamp and what is in it."""
    stamp, faults = target.folder / STAMP, tuple(seen["faults"])
    if seen["absent"] and not faults:
        return Verdict("rebuild", f"{seen['absent'][0]} is not in it though its package is")
    if not stamp.exists():
        return Verdict("finish", "left half built", faults)
    if stamp.read_text().strip() != target.stamp:
        return Verdict("rebuild", f"built from another lock, or not for {target.device}")
    if faults:
        return Verdict("finish", f"damaged: {', '.join(faults[:3])}", faults)
    return Verdict("keep", "whole")


def _probe(target: Target) -> _Seen | None:
    """What `probe.py` says of the environment; None when its interpreter cannot run it."""
    script = CHECKOUT / "deploy" / "probe.py"
    command = [str(target.python), "-I", str(script), str(target.lock), *target.imports]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
        seen: _Seen = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return seen
