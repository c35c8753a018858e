"""Becomes the program described in a JSON file: `python -m tunesmith.serving.start programs/NAME.json`."""

import os
import sys
from pathlib import Path

from tunesmith.serving.program import Program
from tunesmith.serving.remnants import end_remnants, note_leader
from tunesmith.worker import die_with_parent


def become(path: Path) -> None:
    """Replaces this process by the program; does not return. Whatever ends the supervisor ends it too."""
    program = Program.model_validate_json(path.read_bytes())
    die_with_parent()
    end_remnants(path.with_suffix(".group"))
    note_leader(path.with_suffix(".group"))
    os.execvpe(program.command[0], program.command, {**os.environ, **program.environment})


if __name__ == "__main__":
    become(Path(sys.argv[1]))
