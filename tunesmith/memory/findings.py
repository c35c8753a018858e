"""What simulations found of training steps, billed in place of what a formula says that was not made for them."""

from typing import NamedTuple

from tunesmith.artifacts import BillItem, Simulation
from tunesmith.memory.step import Step

BY_SIMULATION = "by simulation"
"""The item that makes up what the formula lacks."""


class Finding(NamedTuple):
    """One step: what its tensors take by the bill and by simulation, and what the allocator then reserves; bytes."""

    step: Step
    billed_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    """In expandable segments, as runs have them."""

    @property
    def ratio(self) -> float:
        return self.allocated_bytes / self.billed_bytes


class Findings(NamedTuple):
    known: tuple[Finding, ...] = ()
    is_cautious: bool = False
    """Steps that were not simulated are billed at no less than the formula says."""

    def of(self, step: Step) -> Finding | None:
        """The step's own, else the one that adds the largest share; None where nothing is to be changed."""
        own = next((one for one in self.known if one.step == step), None)
        if own or not self.known:
            return own
        largest = max(self.known, key=lambda one: one.ratio)
        return None if self.is_cautious and largest.ratio < 1 else largest


def find(step: Step, billed_bytes: int, simulation: Simulation) -> Finding:
    """What the simulation says of the step; `billed_bytes` are those of its tensors by the formula."""
    peaks = (simulation.forward_backward, simulation.optimizer)
    return Finding(
        step,
        billed_bytes,
        max(peak.allocated_bytes for peak in peaks),
        max(peak.reserved_expandable_bytes for peak in peaks),
    )


def corrected(items: tuple[BillItem, ...], finding: Finding, device: str) -> tuple[BillItem, ...]:
    """The bill with the training's tensors times what the simulation found for one byte of the formula's.

    For the simulated step itself that is the simulated figure to the byte. What is more becomes an item of its own;
    what is less is taken from all items alike. On a GPU the allocator's share is the simulated one too.
    """
    training = [item for item in items if item.phase == "train" and item.place == "device"]
    billed = sum(item.bytes for item in training if item.kind == "allocated")
    wanted = billed * finding.allocated_bytes // finding.billed_bytes
    reserved = wanted * max(finding.reserved_bytes, finding.allocated_bytes) // finding.allocated_bytes
    changed = _resized([item for item in training if item.kind == "allocated"], wanted)
    kept = [item for item in training if item.kind == "context"]
    slack = [
        item.model_copy(update={"bytes": reserved - wanted if device == "cuda" else item.bytes * wanted // billed})
        for item in training
        if item.kind == "slack"
    ]
    return _in_place_of(training, [*kept, *changed, *slack], items)


def _resized(items: list[BillItem], wanted: int) -> list[BillItem]:
    """Items that add up to so many bytes."""
    billed = sum(item.bytes for item in items)
    if wanted > billed:
        return [*items, BillItem(phase="train", item=BY_SIMULATION, bytes=wanted - billed)]
    smaller = [item.model_copy(update={"bytes": item.bytes * wanted // billed}) for item in items]
    left = wanted - sum(item.bytes for item in smaller)
    return [smaller[0].model_copy(update={"bytes": smaller[0].bytes + left}), *smaller[1:]]


def _in_place_of(old: list[BillItem], new: list[BillItem], items: tuple[BillItem, ...]) -> tuple[BillItem, ...]:
    first = items.index(old[0])
    rest = [item for item in items if item not in old]
    return (*rest[:first], *new, *rest[first:])
