"""What a backup is of: a recipe, a store, and where in it the run's results are; and the backup's own folder."""

from pathlib import Path

from tunesmith.specs.backup import TARGET, BackupSpec
from tunesmith.specs.recipe import Recipe
from tunesmith.specs.spec import Spec
from tunesmith.store import Store

EVENTS = "events.jsonl"
ENDED = "ended"
"""The line that tells the backup's process of the run's end."""


class Request(Spec):
    recipe: Recipe
    store: str
    rooms: dict[str, str]
    """By stage; see parts.rooms_of."""

    @property
    def spec(self) -> BackupSpec:
        assert self.recipe.backup is not None
        return self.recipe.backup

    def folder(self) -> Path:
        """Of the repo's backup in the store: its events, its lock, and a checkpoint that is being pushed."""
        match = TARGET.fullmatch(self.spec.to)
        assert match is not None
        folder = Store(Path(self.store)).root / "backup" / match[2].replace("/", "--")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
