"""Pushing what is finished while the run goes on. No fault of a hub ends it; each is a note, and a later try."""

import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tunesmith.artifacts import Resolved
from tunesmith.backup.card import write_card
from tunesmith.backup.license import license_of
from tunesmith.backup.parts import CHECKPOINT, Part, finished, newest_checkpoint, set_aside
from tunesmith.backup.push import CARD, push
from tunesmith.backup.remote import Remote
from tunesmith.backup.request import Request
from tunesmith.errors import TunesmithError
from tunesmith.foreign import translate
from tunesmith.store import Store


class Notes(Protocol):
    """Who is told."""

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Rhythm:
    """Seconds and tries."""

    look_s: float = 5.0
    """Between two looks at the store."""
    backoff_s: float = 10.0
    """After the first failure; doubled each time."""
    longest_backoff_s: float = 600.0
    last_tries: int = 8
    """Once the run has ended; about twenty minutes."""

    def backoff(self, failures: int) -> float:
        return min(self.backoff_s * 2.0 ** (failures - 1), self.longest_backoff_s)


class Watch:
    """One run's backup."""

    def __init__(self, request: Request, remote: Remote, notes: Notes, rhythm: Rhythm | None = None) -> None:
        self.request, self.remote, self.notes = request, remote, notes
        self.rhythm = rhythm or Rhythm()
        self.store = Store(Path(request.store))
        self._shelf = request.folder() / CHECKPOINT
        self._license: dict[str, str] | None = None
        self._done: set[tuple[str, str]] = set()
        """Part and origin."""
        self._card = ""
        self._checkpoint_at = float("-inf")
        self._last_said = ""

    def run(self, ended: threading.Event) -> bool:
        """Until the run has ended and everything is pushed; False when the last tries came to nothing."""
        failures, tries_left = 0, self.rhythm.last_tries
        while True:
            last = ended.is_set()
            if self._attempt():
                if last:
                    return True
                failures = 0
                ended.wait(self.rhythm.look_s)
                continue
            failures += 1
            tries_left -= last
            if not tries_left:
                self.notes.note(f"Not all is on {self.remote.name}: `tunesmith backup` pushes the rest.")
                return False
            self._pause(failures, ended)

    def round(self) -> None:
        """Pushes what is new since the last round. Raises what the hub's repo does."""
        parts = [part for part in self._parts() if (part.name, part.origin) not in self._done]
        card = write_card(self.request.recipe, self.store, self.request.rooms, self._known_license())
        if not parts and card == self._card:
            return
        for pushed in push(self.remote, parts, card):
            self._done.add((pushed.part, pushed.origin))
            if pushed.part == CHECKPOINT:
                self._checkpoint_at = time.monotonic()
                shutil.rmtree(self._shelf, ignore_errors=True)
            if pushed.files and pushed.part != CARD:
                self.notes.note(f"On {self.remote.name}: {pushed.sentence}.")
        self._card = card

    def _attempt(self) -> bool:
        try:
            self.round()
        except Exception as error:
            self._say(_sentence(error))
            return False
        self._last_said = ""
        return True

    def _pause(self, failures: int, ended: threading.Event) -> None:
        """The end of the run cuts a pause short, once: the hub may be back."""
        seconds = self.rhythm.backoff(failures)
        if ended.is_set():
            time.sleep(seconds)
        else:
            ended.wait(seconds)

    def _say(self, text: str) -> None:
        """A fault that lasts is told once."""
        if text != self._last_said:
            self.notes.note(text)
        self._last_said = text

    def _parts(self) -> list[Part]:
        found = finished(self.store, self.request.rooms, self.request.spec.what)
        if "checkpoints" in self.request.spec.what and (checkpoint := self._due()):
            found.append(checkpoint)
        return found

    def _due(self) -> Part | None:
        """The newest checkpoint, where it is new and its time has come."""
        every = self.request.spec.every
        wait = 0.0 if every == "checkpoint" else 60.0 * every
        newest = newest_checkpoint(self.store, self.request.rooms)
        if newest is None or (CHECKPOINT, newest.name) in self._done:
            return None
        if time.monotonic() - self._checkpoint_at < wait:
            return None
        part = set_aside(newest, self._shelf)
        if part is None:
            # Gone or damaged: not looked at again, for that means reading all of it.
            self._done.add((CHECKPOINT, newest.name))
        return part

    def _known_license(self) -> dict[str, str]:
        """Asked for once."""
        if self._license is None:
            manifest = self.store.manifest(self.request.rooms["resolve"])
            resolved = manifest.artifact if manifest else None
            self._license = license_of(resolved.model) if isinstance(resolved, Resolved) else {}
        return self._license


def _sentence(error: Exception) -> str:
    ours = translate(error)
    return ours.message if isinstance(ours, TunesmithError) else f"The backup failed ({type(error).__name__}: {error})."
