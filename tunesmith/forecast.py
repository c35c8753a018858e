"""Facts without a run: what would be done, what it would cost, what is there already."""

from typing import Any

from tunesmith.artifacts import Plan, Resolved
from tunesmith.memory.estimate import to_json
from tunesmith.nearside import estimate_into
from tunesmith.pipeline import lay_out
from tunesmith.resolve import resolve
from tunesmith.serving import endpoint
from tunesmith.specs.recipe import Recipe
from tunesmith.store import Store


def estimate(recipe: Recipe, store: Store) -> dict[str, Any]:
    """The bill and the plan; raises DoesNotFit when there is none."""
    return to_json(_plan(recipe, store)[1])


def plan(recipe: Recipe, store: Store) -> dict[str, Any]:
    """Every job with its fingerprint, room and whether it is done, and the bill."""
    resolved, planned = _plan(recipe, store)
    jobs = [
        {"stage": name, "fingerprint": job.fingerprint, "room": job.room_name, "done": _done(store, job.room_name)}
        for name, job in lay_out(recipe, resolved, planned)
    ]
    source = {"repo": resolved.model.repo, "commit": resolved.model.commit, "bytes": resolved.model.total_bytes}
    return {"model": source, "jobs": jobs, "estimate": to_json(planned)}


def status(store: Store) -> dict[str, Any]:
    """What is served, and every finished room, newest first."""
    rooms = [
        {
            "room": name,
            "finished_at": manifest.finished_at,
            "seconds": manifest.wall_seconds,
            "bytes": sum(entry.size for entry in manifest.files),
        }
        for name, manifest in store.manifests()
    ]
    served = endpoint.status(store)
    return {"store": str(store.root), "served": served.model_dump(mode="json") if served else None, "rooms": rooms}


def _plan(recipe: Recipe, store: Store) -> tuple[Resolved, Plan]:
    resolved = resolve(recipe, store).artifact
    assert isinstance(resolved, Resolved)
    planned = estimate_into(store, recipe, resolved).artifact
    assert isinstance(planned, Plan)
    return resolved, planned


def _done(store: Store, room_name: str) -> bool:
    return store.manifest(room_name) is not None
