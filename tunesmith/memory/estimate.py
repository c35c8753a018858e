"""The estimate stage: the plan of a resolved recipe, before a gigabyte moves."""

from typing import Any

from tunesmith.artifacts import Hardware, Plan, Resolved
from tunesmith.errors import DiskFull
from tunesmith.memory.bill import peaks
from tunesmith.memory.constants import GIB
from tunesmith.memory.plan import make_plan
from tunesmith.specs.recipe import Recipe


def estimate(recipe: Recipe, resolved: Resolved, hardware: Hardware) -> Plan:
    """The plan for this hardware. Raises what make_plan raises; the disk is `check_disk`'s to judge."""
    return make_plan(recipe, resolved.model, hardware)


def check_disk(needed_bytes: int, free_bytes: int) -> None:
    """Raises DiskFull when the store would grow beyond the free space of its file system."""
    if needed_bytes > free_bytes:
        raise DiskFull(
            f"The store will grow by up to {needed_bytes / GIB:.1f} GiB and its disk has {free_bytes / GIB:.1f} GiB "
            "free: free some space, or choose a --store on another disk."
        )


def to_json(plan: Plan) -> dict[str, Any]:
    """The plan as `estimate --json` prints it; memory in GiB."""
    device, host = peaks(plan.bill), peaks(plan.bill, "host")
    fullest = max(device, key=lambda phase: device[phase])
    beside = max(host.values(), default=plan.peak_bytes if plan.device == "cpu" else 0)
    return {
        "fits": plan.peak_bytes <= plan.budget_bytes,
        "phases": {phase: {"gib": _gib(size)} for phase, size in device.items()},
        "peak": {"phase": fullest, "gib": _gib(device[fullest]), "budget_gib": _gib(plan.budget_bytes)},
        "bill": [
            {"phase": item.phase, "item": item.item, "gib": _gib(item.bytes), "place": item.place} for item in plan.bill
        ],
        "host_gib": _gib(beside),
        "disk_gib": _gib(plan.disk_bytes),
        "plan": {
            "device": plan.device,
            "precision": plan.precision,
            "micro_batch_size": plan.micro_batch_size,
            "accumulation_steps": plan.accumulation_steps,
            "gradient_checkpointing": plan.gradient_checkpointing,
            "fingerprint": plan.fingerprint,
            "summary": plan.summary,
        },
    }


def _gib(size: int) -> float:
    return round(size / GIB, 4)
