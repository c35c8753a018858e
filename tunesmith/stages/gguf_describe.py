"""What a GGUF's head says of the model: its config.json, once it is clear that the whole file could be read rightly.

    .envs/train/bin/python -m tunesmith.stages.gguf_describe FILE NAME ANSWER.json

FILE has the file's length and, of its bytes, the head alone. The answer is `{"config": …}`, or `{"error", "message"}`.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

from tunesmith import worker
from tunesmith.errors import ModelError, TunesmithError
from tunesmith.hub.gguf_head import MOST_BYTES, read_head
from tunesmith.stages.gguf_config import content, read_config
from tunesmith.stages.gguf_tokens import check_tokens
from tunesmith.stages.gguf_weights import check_packing, check_weights

_MOST_MEMORY = 16 << 30
"""Bytes this process may have; the largest vocabularies take one GiB."""


def describe(file: Path, name: str) -> dict[str, Any]:
    """The config.json; `name` is the file's in sentences. Raises ModelError or one of its kind."""
    with file.open("rb") as start:
        head = read_head(start.read(MOST_BYTES), file.stat().st_size)
    check_tokens(head, name)
    try:
        check_packing(head, name, file.stat().st_size)
        config = read_config(file, head, name)
        model = check_weights(config, head, name)
    except TunesmithError:
        raise
    except Exception as error:
        # Whatever a library stumbles over in a file that anybody may have written.
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"{name} is damaged, or cut off, or no model ({said[0]}): fetch it again.") from error
    config.architectures, config.dtype = [type(model).__name__], "bfloat16"
    return content(config)


def main() -> None:
    worker.die_with_parent()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, hard))
    file, name, answer = sys.argv[1:]
    try:
        found: dict[str, Any] = {"config": describe(Path(file), name)}
    except TunesmithError as error:
        found = {"error": type(error).__name__, "message": error.message}
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
