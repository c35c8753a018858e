"""A GGUF as a recipe's model: described from its head alone, which is fetched by ranges before any weight moves.

The train environment's transformers turns the head into a config.json (`stages/gguf_describe.py`), as it will read the
whole file later, when the convert stage makes safetensors of it.
"""

import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tunesmith.artifacts import FileEntry, ModelSource
from tunesmith.environments import health, interpreter
from tunesmith.errors import EnvironmentMissing, ModelError, StageCrashed, revive
from tunesmith.hub.gguf_head import MOST_BYTES, Incomplete, Unusable, lean, read_head
from tunesmith.hub.gguf_names import pick
from tunesmith.hub.gguf_range import Reader, open_file, open_hub
from tunesmith.hub.transfer.supply import Supply
from tunesmith.runner import stage_environment
from tunesmith.specs.model import ModelSpec
from tunesmith.store import sha256

_STEP_BYTES = 1 << 20
_LONGEST_SECONDS = 600.0
"""Describing the largest vocabulary takes half a minute on a busy machine."""


def on_hub(supply: Supply, name: str, where: str) -> tuple[FileEntry, dict[str, Any]]:
    """The repo's file `name` at the commit listed, and its config; of its bytes only the head is fetched, a few MiB.

    Raises ModelError (NoChatTemplate, UnknownArchitecture) for a file that cannot be started from, EnvironmentMissing
    without the train environment, and what the hub's sources raise.
    """
    entry = pick(supply.listed.files, name, where)
    with open_hub(supply, entry) as read:
        return entry, _describe(read, entry.size, f"{name} of {where}")


def from_disk(spec: ModelSpec, folder: Path, hashed: bool = True) -> ModelSource:
    """The same for a file on this machine; without `hashed` it is not read through, and its commit means nothing."""
    file = _local(spec, folder)
    with open_file(file) as read:
        config = _describe(read, file.stat().st_size, str(file))
    digest = sha256(file) if hashed else None
    entry = FileEntry(path=file.name, size=file.stat().st_size, sha256=digest)
    commit = hashlib.sha256(json.dumps([entry.identity()]).encode()).hexdigest()[:40]
    return ModelSource(repo=f"local/{commit[:12]}", commit=commit, files=(entry,), path=str(file.parent), config=config)


def _local(spec: ModelSpec, folder: Path) -> Path:
    """The file that `path`, or `gguf` below `path`, names."""
    path = (folder / Path(spec.path or "").expanduser()).resolve()
    if spec.gguf is None:
        if not path.is_file():
            raise ModelError(f"There is no file {path}: check model.path, which starts at the recipe's own folder.")
        pick([FileEntry(path=path.name, size=0)], path.name, str(path.parent))
        return path
    if not path.is_dir():
        raise ModelError(f"There is no folder {path}: check model.path, which starts at the recipe's own folder.")
    found = [file for file in sorted(path.rglob("*")) if file.is_file()]
    entries = [FileEntry(path=file.relative_to(path).as_posix(), size=0) for file in found]
    return path / pick(entries, spec.gguf, str(path)).path


def _describe(read: Reader, file_bytes: int, name: str) -> dict[str, Any]:
    """The config.json of the model; `read` gives the file's first bytes, as many as it is asked for."""
    if reason := health("train"):
        raise EnvironmentMissing(f"{name} is read in the train environment: {reason}")
    try:
        content, head_bytes = _fetch_head(read, file_bytes)
    except Unusable as error:
        raise ModelError(f"{name} is no GGUF that can be read ({error}): fetch it again, or name another.") from error
    with tempfile.TemporaryDirectory(prefix="tunesmith-gguf-") as scratch:
        stand_in, answer = Path(scratch, "head.gguf"), Path(scratch, "answer.json")
        stand_in.write_bytes(content)
        # Zeros that take no room stand for the weights.
        os.truncate(stand_in, file_bytes - head_bytes + len(content))
        return _ask(stand_in, name, answer)


def _fetch_head(read: Reader, file_bytes: int) -> tuple[bytes, int]:
    """The head, without what only a tokenizer needs, and how many bytes it has in the file."""
    wanted = min(_STEP_BYTES, file_bytes)
    while True:
        content = read(wanted)
        try:
            head = read_head(content, file_bytes)
            return lean(content, head), head.size
        except Incomplete as more:
            further = wanted + max(wanted // 2, _STEP_BYTES)
            wanted = min(max(further, more.at_least), MOST_BYTES, file_bytes)


def _ask(stand_in: Path, name: str, answer: Path) -> dict[str, Any]:
    command = [str(interpreter("train")), "-m", "tunesmith.stages.gguf_describe", str(stand_in), name, str(answer)]
    try:
        done = subprocess.run(
            command, cwd=answer.parent, env=stage_environment({"HF_HUB_OFFLINE": "1"}), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=_LONGEST_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{name} was not described within {_LONGEST_SECONDS:.0f} s: name another file.") from error
    if not answer.exists():
        lines = done.stderr.strip().splitlines()
        raise StageCrashed(f"Describing {name} crashed (exit code {done.returncode}: {lines[-1] if lines else ''}).")
    said = json.loads(answer.read_text())
    if "error" in said:
        raise revive(said["error"], said["message"])
    config: dict[str, Any] = said["config"]
    return config
