"""What simulations found of training steps and evaluations, billed in place of what a formula says that was not made
for them.
"""

from typing import NamedTuple

from tunesmith.artifacts import Simulation
from tunesmith.memory.said import BillItem
from tunesmith.memory.step import Step

BY_SIMULATION = "by simulation"
"""The item that makes up what the formula lacks."""


class Share(NamedTuple):
    """A phase's tensors by the bill and by simulation, and what the allocator then reserves; bytes."""

    billed_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    """In expandable segments, as runs have them."""


class Finding(NamedTuple):
    """What was simulated of one step, and of the evaluation after it."""

    step: Step
    training: Share
    evaluation: Share | None = None
    """None where none was simulated."""

    @property
    def ratio(self) -> float:
        """Of the step."""
        return self.training.allocated_bytes / self.training.billed_bytes


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


def find(step: Step, billed_bytes: int, simulation: Simulation, billed_evaluation_bytes: int) -> Finding:
    """What the simulation says of the step; the billed bytes are those of tensors by the formula."""
    peaks = (simulation.forward_backward, simulation.optimizer)
    training = Share(
        billed_bytes,
        max(peak.allocated_bytes for peak in peaks),
        max(peak.reserved_expandable_bytes for peak in peaks),
    )
    judged = simulation.evaluate
    if not judged:
        return Finding(step, training)
    return Finding(
        step, training, Share(billed_evaluation_bytes, judged.allocated_bytes, judged.reserved_expandable_bytes)
    )


def corrected(items: tuple[BillItem, ...], finding: Finding, device: str) -> tuple[BillItem, ...]:
    """The bill with the tensors of training and evaluation times what the simulation found for one byte of the
    formula's.

    For what was simulated itself that is the simulated figure to the byte. What is more becomes an item of its own;
    what is less is taken from all items alike. On a GPU the allocator's share is the simulated one too.
    """
    found = _corrected(items, "train", finding.training, device)
    return _corrected(found, "evaluate", finding.evaluation, device) if finding.evaluation else found


def _corrected(items: tuple[BillItem, ...], phase: str, share: Share, device: str) -> tuple[BillItem, ...]:
    own = [item for item in items if item.phase == phase and item.place == "device"]
    billed = sum(item.bytes for item in own if item.kind == "allocated")
    wanted = billed * share.allocated_bytes // share.billed_bytes
    reserved = wanted * max(share.reserved_bytes, share.allocated_bytes) // share.allocated_bytes
    changed = _resized([item for item in own if item.kind == "allocated"], wanted)
    kept = [item for item in own if item.kind == "context"]
    slack = [
        item.model_copy(update={"bytes": reserved - wanted if device == "cuda" else item.bytes * wanted // billed})
        for item in own
        if item.kind == "slack"
    ]
    return _in_place_of(own, [*kept, *changed, *slack], items)


def _resized(items: list[BillItem], wanted: int) -> list[BillItem]:
    """Items that add up to so many bytes."""
    billed = sum(item.bytes for item in items)
    if wanted > billed:
        return [*items, BillItem(phase=items[0].phase, item=BY_SIMULATION, bytes=wanted - billed)]
    smaller = [item.model_copy(update={"bytes": item.bytes * wanted // billed}) for item in items]
    left = wanted - sum(item.bytes for item in smaller)
    return [smaller[0].model_copy(update={"bytes": smaller[0].bytes + left}), *smaller[1:]]


def _in_place_of(old: list[BillItem], new: list[BillItem], items: tuple[BillItem, ...]) -> tuple[BillItem, ...]:
    first = items.index(old[0])
    rest = [item for item in items if item not in old]
    return (*rest[:first], *new, *rest[first:])
