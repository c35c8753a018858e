"""The backup of one run, in a process of its own: `python -m tunesmith.backup`, its request as a line of stdin.

The line `ended` says that the run has come to its end, and that what is left is still to be pushed. When stdin closes
without it, the run was killed, and this process goes at once. What it has to say is a line of stdout each, and an event
in the backup's folder.
"""

import fcntl
import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from huggingface_hub.utils.tqdm import disable_progress_bars

from tunesmith.backup.remote import remote_of
from tunesmith.backup.request import ENDED, EVENTS, Request
from tunesmith.backup.watch import Rhythm, Watch

_NICE = 10


class _Told:
    """Writes each note into the folder's events, and to whoever still listens."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS

    def note(self, text: str) -> None:
        line = json.dumps({"event": "note", "time": round(time.time(), 3), "text": text})
        with self._path.open("a") as file:
            file.write(line + "\n")
        with suppress(OSError):
            print(text, flush=True)


def main() -> int:
    os.nice(_NICE)
    disable_progress_bars()
    request = Request.model_validate_json(sys.stdin.readline())
    ended = threading.Event()
    threading.Thread(target=_listen, args=(ended,), daemon=True).start()
    told, rhythm = _Told(request.folder()), Rhythm(**json.loads(os.environ.get("TUNESMITH_BACKUP_RHYTHM", "{}")))
    with (request.folder() / ".lock").open("w") as lock:
        # An earlier run may still be pushing its last.
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = Watch(request, remote_of(request.spec), told, rhythm).run(ended)
    return 0 if done else 1


def _listen(ended: threading.Event) -> None:
    for line in sys.stdin:
        if line.strip() == ENDED:
            ended.set()
            return
    os._exit(1)


if __name__ == "__main__":
    code = main()
    # Nobody may be listening any more, which is no reason to fail at the door.
    os._exit(code)
