"""Checkpoints that prove themselves: each lists its files' digests, and only one whose list holds is resumed from.

The trainer resumes from the newest folder as it finds it, and a missing optimizer file or a block of zeroes there
changes the result without a word. Here a damaged or half-written checkpoint is removed and the one before it taken.
"""

import json
import shutil
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tunesmith.store import list_files, write_json

SEAL = "files.json"
_PREFIX = "checkpoint-"


class SealCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Seals each checkpoint as soon as the trainer has written it."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        seal(Path(args.output_dir) / f"{_PREFIX}{state.global_step}")
        return control


def seal(checkpoint: Path) -> None:
    """Writes the digests of the checkpoint's files into it, last and by rename."""
    write_json(checkpoint / SEAL, {entry.path: entry.sha256 for entry in list_files(checkpoint)})


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint below `folder` whose files are all as they were sealed; newer ones are removed."""
    for checkpoint in sorted(folder.glob(f"{_PREFIX}*"), key=_step, reverse=True):
        if is_whole(checkpoint):
            return checkpoint
        print(f"{checkpoint.name} is damaged or was not finished: going back to the one before it.", flush=True)
        shutil.rmtree(checkpoint)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether the checkpoint is sealed and every file it lists still has its digest."""
    try:
        sealed = json.loads((checkpoint / SEAL).read_text())
    except (OSError, ValueError):
        return False
    found = {entry.path: entry.sha256 for entry in list_files(checkpoint) if entry.path != SEAL}
    return bool(found) and found == sealed


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))
