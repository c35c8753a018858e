"""Checkpoints that prove themselves: each lists its files' digests, and only one whose list holds is resumed from.

The trainer resumes from the newest folder as it finds it, and a missing optimizer file or a block of zeroes there
changes the result without a word. Here a damaged or half-written checkpoint is removed and the one before it taken.
"""

import shutil
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tunesmith.seals import PREFIX, is_whole, newest_first, seal


class SealCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Seals each checkpoint as soon as the trainer has written it."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        seal(Path(args.output_dir) / f"{PREFIX}{state.global_step}")
        return control


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint below `folder` whose files are all as they were sealed; newer ones are removed."""
    for checkpoint in newest_first(folder):
        if is_whole(checkpoint):
            return checkpoint
        print(f"{checkpoint.name} is damaged or was not finished: going back to the one before it.", flush=True)
        shutil.rmtree(checkpoint)
    return None
