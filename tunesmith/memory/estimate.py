"""The estimate stage: the plan of a resolved recipe, before a gigabyte moves."""

from typing import Any

from tunesmith.artifacts import Hardware, Plan, Resolved
from tunesmith.errors import DiskFull
from tunesmith.memory.bill import peaks
from tunesmith.memory.constants import GIB
from tunesmith.memory.plan import make_plan
from tunesmith.memory.unknown import Simulate
from tunesmith.specs.recipe import Recipe

_KINDS = ("allocated", "slack", "context")


def estimate(recipe: Recipe, resolved: Resolved, hardware: Hardware, simulate: Simulate | None = None) -> Plan:
    """The plan for this hardware. Raises what make_plan raises; the disk is `check_disk`'s to judge."""
    return make_plan(recipe, resolved.model, hardware, simulate)


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
        "phases": _phases(plan),
        "peak": {
            "phase": fullest,
            "low_gib": _gib(plan.low_bytes),
            "high_gib": _gib(plan.peak_bytes),
            "budget_gib": _gib(plan.budget_bytes),
        },
        "bill": [
            {"phase": item.phase, "item": item.item, "gib": _gib(item.bytes), "place": item.place} for item in plan.bill
        ],
        "host_gib": _gib(beside),
        "disk_gib": _gib(plan.disk_bytes),
        "disk": {stage: _gib(size) for stage, size in plan.disk.items()},
        "plan": _chosen(plan),
        "rejected": [{"plan": rung.plan, "high_gib": _gib(rung.high_bytes), "why": rung.why} for rung in plan.rejected],
    }


def _phases(plan: Plan) -> dict[str, dict[str, float]]:
    """Per phase: what tensors take, what the allocator holds, what the device shows, and host memory beside it."""
    found: dict[str, dict[str, float]] = {}
    host = peaks(plan.bill, "host")
    for phase in {**peaks(plan.bill), **host}:
        items = [item for item in plan.bill if item.phase == phase and item.place == "device"]
        sizes = {kind: sum(item.bytes for item in items if item.kind == kind) for kind in _KINDS}
        allocated, reserved = sizes["allocated"], sizes["allocated"] + sizes["slack"]
        device = reserved + sizes["context"]
        found[phase] = {
            "allocated_gib": _gib(allocated), "reserved_gib": _gib(reserved), "device_gib": _gib(device),
            "host_gib": _gib(host.get(phase, 0)),
        }  # fmt: skip
    if "serve" in found:
        found["serve"] |= {"kv_tokens": plan.kv_tokens, "max_sequences": plan.max_sequences}
    return found


def _chosen(plan: Plan) -> dict[str, Any]:
    step = plan.step
    return {
        "device": plan.device,
        "method": step.method.method,
        "precision": plan.precision,
        "arithmetic": step.arithmetic,
        "micro_batch_size": step.micro_batch_size,
        "accumulation_steps": plan.accumulation_steps,
        "gradient_checkpointing": step.gradient_checkpointing,
        "attention": step.attention,
        "optimizer": step.optimizer,
        "loss": step.loss,
        **step.parallel.model_dump(),
        "transfer_seconds": round(plan.transfer_seconds, 3),
        "fingerprint": plan.fingerprint,
        "summary": plan.summary,
    }


def _gib(size: int) -> float:
    return round(size / GIB, 4)
