"""A followed stream as figures: the fullest moment of each phase by owner, and the step's course."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tunesmith.memory.allocator import Event, Mark, replay
from tunesmith.memory.said import SimulatedMoment, SimulatedPeak
from tunesmith.stages.simulate.owners import TEMPORARIES

_POINTS = 400


class Recording(NamedTuple):
    """What was allocated, and for whom."""

    stream: Sequence[Event | Mark]
    owners: Sequence[str]
    """By block."""


class _State(NamedTuple):
    """The memory after one event."""

    event: int
    """Its index in the stream."""
    phase: str
    total: int
    alive: dict[str, int]
    """Bytes by owner; changes as the walk goes on."""


def peaks(recording: Recording, phases: Sequence[str]) -> dict[str, SimulatedPeak]:
    """The fullest moment of each phase, and what the allocator has reserved in it, in either way of its working."""
    fullest: dict[str, tuple[int, dict[str, int]]] = {}
    for state in _walk(recording):
        if state.phase in phases and state.total > fullest.get(state.phase, (-1, {}))[0]:
            fullest[state.phase] = state.total, dict(state.alive)
    native, expandable = (replay(recording.stream, expandable=kind).phases for kind in (False, True))
    return {
        phase: SimulatedPeak(
            allocated_bytes=total,
            reserved_native_bytes=native[phase].reserved_bytes,
            reserved_expandable_bytes=expandable[phase].reserved_bytes,
            owners=_largest_first(alive),
        )
        for phase, (total, alive) in fullest.items()
    }


def timeline(recording: Recording, phases: Sequence[str]) -> tuple[SimulatedMoment, ...]:
    """The course of the phases in at most 400 moments: of each stretch of the stream, its fullest."""
    merged = recording._replace(owners=["temporaries" if o.startswith(TEMPORARIES) else o for o in recording.owners])
    first = next(i for i, event in enumerate(merged.stream) if isinstance(event, Mark) and event.name in phases)
    length = -(-(len(merged.stream) - first) // _POINTS)
    chosen: dict[int, SimulatedMoment] = {}
    totals: dict[int, int] = {}
    for state in _walk(merged):
        stretch = (state.event - first) // length
        if state.phase in phases and state.total > totals.get(stretch, -1):
            totals[stretch] = state.total
            chosen[stretch] = SimulatedMoment(
                event=state.event - first, phase=state.phase, owners=_largest_first(state.alive)
            )
    return tuple(chosen.values())


def _walk(recording: Recording) -> Iterator[_State]:
    alive: dict[str, int] = {}
    sizes: dict[int, int] = {}
    phase, total = "", 0
    for index, event in enumerate(recording.stream):
        if isinstance(event, Mark):
            phase = event.name
        else:
            change = event.size or -sizes.pop(event.block)
            if change > 0:
                sizes[event.block] = change
            owner = recording.owners[event.block]
            alive[owner] = alive.get(owner, 0) + change
            total += change
        yield _State(index, phase, total, alive)


def _largest_first(alive: dict[str, int]) -> dict[str, int]:
    return {owner: size for owner, size in sorted(alive.items(), key=lambda item: -item[1]) if size}
