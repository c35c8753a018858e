"""The backup beside a run: started, told of the run's end, never waited for."""

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from tunesmith.artifacts import Plan, Resolved
from tunesmith.backup.parts import rooms_of
from tunesmith.backup.remote import remote_of
from tunesmith.backup.request import ENDED, Request
from tunesmith.specs.recipe import Recipe
from tunesmith.store import Store

LOG = "backup.log"
Say = Callable[[str], None]


class Backup:
    """The process that backs a run up, where the recipe asks for one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Backup":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """A run that was stopped takes its backup along; one that finished or failed leaves it to push the rest."""
        if kind is None or issubclass(kind, Exception):
            self.end()

    def begin(self, recipe: Recipe, store: Store, resolved: Resolved, plan: Plan, say: Say) -> None:
        """Starts it; whatever keeps it from starting is said, and the run goes on without."""
        if recipe.backup is None or self._process:
            return None
        try:
            if objection := remote_of(recipe.backup).missing_token():
                return say(objection)
            self._start(Request(recipe=recipe, store=str(store.root), rooms=rooms_of(recipe, resolved, plan)), say)
        except Exception as error:
            say(f"The backup did not start ({type(error).__name__}: {error}): the run goes on without it.")

    def end(self) -> None:
        """Says that the run has come to its end; the process pushes what is left, and nobody waits for it."""
        if self._process and self._process.stdin:
            with suppress(OSError):
                self._process.stdin.write(f"{ENDED}\n")
                self._process.stdin.close()

    def _start(self, request: Request, say: Say) -> None:
        command = [sys.executable, "-m", "tunesmith.backup"]
        with (request.folder() / LOG).open("a") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        assert self._process.stdin
        self._process.stdin.write(to_line(request))
        self._process.stdin.flush()
        threading.Thread(target=_pass_on, args=(self._process, say), daemon=True).start()


def to_line(request: Request) -> str:
    """The request as one line; of the recipe, what its author wrote."""
    return request.model_dump_json(exclude_unset=True) + "\n"


def _pass_on(process: "subprocess.Popen[str]", say: Say) -> None:
    assert process.stdout
    for line in process.stdout:
        say(line.rstrip("\n"))
    process.wait()
