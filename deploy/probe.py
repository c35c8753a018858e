"""Looks at an environment from inside: run by its own interpreter, standard library only, prints one JSON object.

ENV/bin/python -I deploy/probe.py locks/train-cpu.txt torch transformers
"""

import importlib.util
import json
import sys
from importlib import metadata
from pathlib import Path


def pins(lock: Path) -> dict[str, str]:
    """Every `name==version` of a lock file; names as written."""
    lines = (line.partition("#")[0].strip() for line in lock.read_text().splitlines())
    return dict(line.split("==", 1) for line in lines if line)


def faults(wanted: dict[str, str]) -> list[str]:
    """The pins that are absent, of another version, or have lost a file."""
    return [name for name, version in wanted.items() if not _whole(name, version)]


def _whole(name: str, version: str) -> bool:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    # A local build (2.13.0+cpu) stands for its public version.
    same = found.version.partition("+")[0] == version.partition("+")[0]
    # An installation that was cut off has no list of files yet. Compiled files come and go.
    listed = [file for file in found.files or () if file.suffix != ".pyc"]
    return same and bool(listed) and all(Path(str(file.locate())).exists() for file in listed)


def absent(modules: list[str]) -> list[str]:
    """The modules that are nowhere to be found; nothing is imported."""
    return [module for module in modules if importlib.util.find_spec(module) is None]


if __name__ == "__main__":
    found = {"faults": faults(pins(Path(sys.argv[1]))), "absent": absent(sys.argv[2:])}
    print(json.dumps({"version": list(sys.version_info[:2]), **found}))
