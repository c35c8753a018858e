"""One run of a recipe: what the tasks share, and what is said at the end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.artifacts import Evaluation, Plan, Release
from tunesmith.backup.beside import Backup
from tunesmith.pipeline import STAGE_ORDER
from tunesmith.places import store_root
from tunesmith.runner import Outcome
from tunesmith.specs.load import load_recipe
from tunesmith.store import Store


class StageRecord(NamedTuple):
    name: str
    seconds: float
    cached: bool
    fingerprint: str
    room: str


class Run:
    """A validated recipe, the store it works in, and a record per finished stage.

    Raises RecipeError or StoreNotWritable when it is made: nothing has happened by then.
    """

    def __init__(self, recipe: str, overrides: Mapping[str, Any] | None = None, store: str | None = None) -> None:
        self.recipe = load_recipe(recipe, overrides)
        self.store = Store(Path(store) if store else store_root()).open()
        self.records: dict[str, StageRecord] = {}
        self.plan: Plan | None = None
        self.evaluation: Evaluation | None = None
        self.release: Release | None = None
        self.backup = Backup()

    def record(self, name: str, outcome: Outcome) -> None:
        """Notes a finished stage; a stage of several jobs adds up under one name."""
        before = self.records.get(name)
        self.records[name] = StageRecord(
            name,
            round(outcome.seconds + (before.seconds if before else 0.0), 3),
            outcome.cached and (before.cached if before else True),
            outcome.artifact.fingerprint,
            outcome.room,
        )

    def report(self) -> dict[str, Any]:
        """The run as facts: release, endpoint, stages, scores."""
        scores = {name: score.score for name, score in self.evaluation.scores.items()} if self.evaluation else {}
        if self.release:
            scores["served"] = self.release.score
        return {
            "release": self.release.name if self.release else None,
            "endpoint": self.release.endpoint if self.release else None,
            "stages": [self.records[name]._asdict() for name in STAGE_ORDER if name in self.records],
            "scores": scores,
        }
