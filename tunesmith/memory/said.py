"""What is said about memory: an item of a bill, a plan that did not fit, a simulated peak."""

from typing import Literal

from tunesmith.specs.spec import Spec


class BillItem(Spec):
    phase: str
    item: str
    bytes: int
    place: Literal["device", "host"] = "device"
    """Whose memory; on a CPU the host is the device."""
    kind: Literal["allocated", "slack", "context"] = "allocated"
    """What tensors take; what an allocator holds beyond them; what is gone before the first tensor."""


class Rejected(Spec):
    """A rung of the ladder that was tried and did not fit."""

    plan: str
    """What was tried, in words."""
    high_bytes: int
    """The least it would have taken in the phase that is too full."""
    why: str


class SimulatedPeak(Spec):
    """The fullest moment of a phase."""

    allocated_bytes: int
    """What its tensors take: the sum over the owners."""
    reserved_native_bytes: int
    """The most torch's caching allocator holds during the phase, pieces it cannot use included."""
    reserved_expandable_bytes: int
    """The same with `expandable_segments:True`."""
    owners: dict[str, int]
    """Bytes by owner, largest first."""


class SimulatedMoment(Spec):
    """One point of a step's course."""

    event: int
    """Allocations and frees since the step began."""
    phase: str
    owners: dict[str, int]
    """Bytes by owner, all temporaries as one."""
