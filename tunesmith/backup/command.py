"""What `tunesmith backup` does with its words."""

from typing import Any

from huggingface_hub.utils.tqdm import disable_progress_bars

from tunesmith.artifacts import Plan, Resolved
from tunesmith.backup.card import write_card
from tunesmith.backup.license import license_of
from tunesmith.backup.parts import Part, finished, newest_checkpoint, rooms_of, set_aside
from tunesmith.backup.push import push
from tunesmith.backup.remote import remote_of
from tunesmith.backup.request import Request
from tunesmith.errors import BackupRefused, RecipeError
from tunesmith.nearside import estimate_into
from tunesmith.resolve import resolve
from tunesmith.specs.recipe import Recipe
from tunesmith.store import Store


def backup(recipe: Recipe, store: Store) -> dict[str, Any]:
    """Pushes what is there now, and says what was sent; raises what the hub's repo does, and what `resolve` does."""
    if recipe.backup is None:
        raise RecipeError(f"{recipe.name} names no backup: set backup.to, for example --set backup.to=hf:owner/name.")
    remote = remote_of(recipe.backup)
    if objection := remote.missing_token():
        raise BackupRefused(objection)
    disable_progress_bars()
    resolved = resolve(recipe, store).artifact
    assert isinstance(resolved, Resolved)
    plan = estimate_into(store, recipe, resolved).artifact
    assert isinstance(plan, Plan)
    request = Request(recipe=recipe, store=str(store.root), rooms=rooms_of(recipe, resolved, plan))
    card = write_card(recipe, store, request.rooms, license_of(resolved.model))
    pushed = push(remote, _parts(request, store), card)
    return {"to": remote.name, "parts": [one._asdict() for one in pushed], "bytes": sum(one.bytes for one in pushed)}


def tell(facts: dict[str, Any]) -> None:
    """For people: a line for each part."""
    print(f"Backed up to {facts['to']}:")
    for part in facts["parts"]:
        sent = f"{part['files']} files, {part['bytes'] / 1e6:,.1f} MB sent" if part["files"] else "nothing to send"
        print(f"  {part['part']} ({part['origin']}): {sent}; {part['there']} files were there")


def _parts(request: Request, store: Store) -> list[Part]:
    parts = finished(store, request.rooms, request.spec.what)
    newest = newest_checkpoint(store, request.rooms) if "checkpoints" in request.spec.what else None
    # Not the shelf of a backup that may be pushing from it at this moment.
    kept = set_aside(newest, request.folder() / "checkpoint-by-hand") if newest else None
    return [*parts, kept] if kept else parts
