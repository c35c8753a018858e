"""From what a recipe names to what it names today: a branch to a commit, data files to their content."""

import time
from pathlib import Path

from tunesmith.artifacts import Dataset, Resolved
from tunesmith.conclude import conclude
from tunesmith.data.dataset import snapshot
from tunesmith.foreign import translate
from tunesmith.hub.listing import resolve_model
from tunesmith.hub.transfer.report import Report
from tunesmith.runner import Outcome
from tunesmith.specs.recipe import Recipe
from tunesmith.specs.spec import fingerprint
from tunesmith.store import Store


def resolve(recipe: Recipe, store: Store, report: Report | None = None) -> Outcome:
    """The recipe's model and data, pinned: a Resolved in the room `resolve-<fingerprint>`; no weight is downloaded.

    `report` hears which sources were passed over. `cached` says that nothing has changed since it was last resolved.
    Raises what the hub raises, ModelError for a model folder, and DataError for the data.
    """
    began = time.monotonic()
    folder = Path(recipe.folder)
    model = resolve_model(recipe.model, folder, report)
    data = snapshot(recipe.data, folder, recipe.model.words, store).artifact
    assert isinstance(data, Dataset)
    resolved = Resolved(fingerprint=fingerprint("resolved", model, data), model=model, data=data)
    room_name = f"resolve-{resolved.fingerprint}"
    if manifest := store.manifest(room_name):
        # Not the manifest's own artifact: the hub's address, or the folder, may be another one today.
        return Outcome(resolved, room_name, manifest.wall_seconds, cached=True)
    seconds = time.monotonic() - began
    _record(store, room_name, resolved, seconds)
    return Outcome(resolved, room_name, seconds, cached=False)


def _record(store: Store, room_name: str, resolved: Resolved, seconds: float) -> None:
    metrics = {"num_files": len(resolved.model.files), "model_bytes": resolved.model.total_bytes}
    try:
        conclude(
            store,
            room_name,
            resolved,
            environment="main",
            seconds=seconds,
            parents=(resolved.data,),
            metrics=metrics,
        )
    except OSError as error:
        raise translate(error) or error from error
