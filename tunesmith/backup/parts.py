"""What there is to push: a run's finished rooms and its newest whole checkpoint, each a folder of the repo."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tunesmith.artifacts import Plan, Resolved
from tunesmith.pipeline import lay_out
from tunesmith.seals import SEAL, is_whole, newest_first, sealed
from tunesmith.specs.backup import What
from tunesmith.specs.recipe import Recipe
from tunesmith.store import OUT, Manifest, Store

CHECKPOINT = "checkpoint"
_ROOMS: dict[What, tuple[str, ...]] = {"adapter": ("train",), "checkpoints": (), "release": ("merge", "quantize")}
_FOLDERS = {"adapter": "adapter", "tuned": "tuned", "merged": "merged", "quantized": "quantized"}
"""By the type of the room's artifact."""

Rooms = Mapping[str, str]
"""Names of a run's rooms by stage: resolve, estimate, data, train, evaluate/base, and so on."""


class Item(NamedTuple):
    """One file on its way into the repo."""

    path: str
    """In the repo."""
    source: Path | bytes
    size: int
    sha256: str


class Part(NamedTuple):
    """A folder of the repo, which becomes what is here in one commit."""

    name: str
    items: tuple[Item, ...]
    origin: str
    """The room, or the checkpoint, in a word for the commit's message."""


def rooms_of(recipe: Recipe, resolved: Resolved, plan: Plan) -> dict[str, str]:
    """Where everything a run makes will be."""
    found = {
        "resolve": f"resolve-{resolved.fingerprint}",
        "data": f"dataset-{resolved.data.fingerprint}",
        "estimate": f"estimate-{plan.fingerprint}",
    }
    return found | {name: job.room_name for name, job in lay_out(recipe, resolved, plan)}


def finished(store: Store, rooms: Rooms, what: tuple[What, ...]) -> list[Part]:
    """The parts whose rooms are done."""
    wanted = [stage for one in what for stage in _ROOMS[one] if stage in rooms]
    found = [(rooms[stage], store.manifest(rooms[stage])) for stage in wanted]
    return [_of_room(store, name, manifest) for name, manifest in found if manifest]


def _of_room(store: Store, room: str, manifest: Manifest) -> Part:
    folder, out = _FOLDERS[manifest.artifact.type], store.room(room) / OUT
    items = [Item(f"{folder}/{e.path}", out / e.path, e.size, e.sha256 or "") for e in manifest.files]
    return Part(folder, tuple(items), room)


def newest_checkpoint(store: Store, rooms: Rooms) -> Path | None:
    """The newest sealed checkpoint of a training that is still under way."""
    folder = store.room(rooms["train"]) / "scratch" / "checkpoints"
    return next((one for one in newest_first(folder) if sealed(one)), None)


def set_aside(checkpoint: Path, shelf: Path) -> Part | None:
    """The checkpoint as a part, linked below `shelf`, where the trainer's tidying does not reach it.

    None when it was tidied away meanwhile or is not whole.
    """
    shutil.rmtree(shelf, ignore_errors=True)
    kept = shelf / checkpoint.name
    try:
        for path in (SEAL, *sealed(checkpoint)):
            (kept / path).parent.mkdir(parents=True, exist_ok=True)
            os.link(checkpoint / path, kept / path)
    except FileNotFoundError:
        return None
    return _of_checkpoint(kept) if is_whole(kept) else None


def _of_checkpoint(kept: Path) -> Part:
    listed = sealed(kept)
    items = [Item(f"{CHECKPOINT}/{p}", kept / p, (kept / p).stat().st_size, digest) for p, digest in listed.items()]
    return Part(CHECKPOINT, tuple(items), kept.name)
