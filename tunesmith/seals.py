"""Checkpoints that prove themselves: each lists its files' digests, and only one whose list holds is whole."""

import json
from pathlib import Path

from tunesmith.store import list_files, write_json

SEAL = "files.json"
PREFIX = "checkpoint-"


def seal(checkpoint: Path) -> None:
    """Writes the digests of the checkpoint's files into it, last and by rename."""
    write_json(checkpoint / SEAL, {entry.path: entry.sha256 for entry in list_files(checkpoint)})


def sealed(checkpoint: Path) -> dict[str, str]:
    """The digests a checkpoint was sealed with, by path; empty where there is no seal that can be read."""
    try:
        listed = json.loads((checkpoint / SEAL).read_text())
    except (OSError, ValueError):
        return {}
    return listed if isinstance(listed, dict) else {}


def is_whole(checkpoint: Path) -> bool:
    """Whether the checkpoint is sealed and every file it lists still has its digest."""
    listed = sealed(checkpoint)
    return bool(listed) and {e.path: e.sha256 for e in list_files(checkpoint) if e.path != SEAL} == listed


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints below `folder`, whole or not."""
    return sorted(folder.glob(f"{PREFIX}*"), key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The optimizer step a checkpoint was made at."""
    return int(checkpoint.name.removeprefix(PREFIX))
