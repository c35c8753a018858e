"""Declaring a room done: hashing what it holds and writing its manifest, the same for both sides of the contract."""

import platform
import resource
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

import psutil

from tunesmith import environments
from tunesmith.artifacts import Artifact
from tunesmith.specs.spec import Spec
from tunesmith.store import OUT, Manifest, Store, list_files


def conclude(
    store: Store,
    room_name: str,
    artifact: Artifact,
    *,
    environment: str,
    seconds: float,
    parents: tuple[Artifact, ...] = (),
    metrics: Mapping[str, float] | None = None,
    predicted: int | None = None,
    with_children: bool = True,
) -> Manifest:
    """Writes the manifest of a room whose `out/` is complete, and returns it.

    `with_children` counts the memory of processes this one waited for: right for a stage of several processes, wrong
    beside the flow, whose children are the other stages.
    """
    folder = store.room(room_name) / OUT
    folder.mkdir(parents=True, exist_ok=True)
    manifest = Manifest.model_validate(
        {
            "stage": room_name.rpartition("-")[0],
            "artifact": artifact,
            "files": list_files(folder),
            "parents": tuple(parent.fingerprint for parent in parents),
            "environment": environment,
            "lock_sha256": environments.lock_hash(environment),
            "hardware": describe_machine(),
            "wall_seconds": round(seconds, 3),
            "peak_bytes_predicted": predicted,
            "peak_bytes_seen": peak_resident_bytes(with_children),
            "metrics": dict(metrics or {}),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    store.finish(room_name, manifest)
    return manifest


def inputs(job: Spec) -> tuple[Artifact, ...]:
    """Every artifact a job starts from, nested ones too, each once."""
    found: dict[str, Artifact] = {}
    for name in type(job).model_fields:
        value = getattr(job, name)
        if isinstance(value, Artifact):
            found[value.fingerprint] = value
        if isinstance(value, Spec):
            found |= {nested.fingerprint: nested for nested in inputs(value)}
    return tuple(found.values())


def peak_resident_bytes(with_children: bool = True) -> int:
    """Largest resident set so far of this process (or of a child of it), bytes; getrusage counts KiB on Linux."""
    unit = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN) if with_children else (resource.RUSAGE_SELF,)
    return max(resource.getrusage(one).ru_maxrss for one in who) * unit


def describe_machine() -> dict[str, str | int | None]:
    """What the manifest says of the machine."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "cores": psutil.cpu_count(),
        "ram_bytes": psutil.virtual_memory().total,
    }
