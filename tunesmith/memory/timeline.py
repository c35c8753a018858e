"""The course of one training step as a picture: whose the memory is, from one allocation to the next."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

from tunesmith.memory.canvas import PLAIN, Box, Canvas, Type, gib, shortened, text_width, ticks
from tunesmith.memory.constants import GIB
from tunesmith.memory.owners import OWNERS, Owner, owner_named
from tunesmith.memory.picture import GRID, HEADING, RULE, SMALL, WIDTH, draw_legend

_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 712.0, 84.0, 364.0
_BEYOND = 3
"""A budget this many times the peak is named and not drawn."""
_HEADROOM = 1.05
_FAINT = "#5c5c5c"
_BANDS = ("#5c5c5c", "#a8a8a8")


class Moment(Protocol):
    """One point of a step's course."""

    @property
    def event(self) -> int:
        """Allocations and frees since the step began."""

    @property
    def phase(self) -> str:
        """What the step is at; empty where that is not known."""

    @property
    def owners(self) -> Mapping[str, int]:
        """Bytes by owner."""


class Layer(NamedTuple):
    """One owner's area: bytes below it and up to its upper edge, per moment."""

    owner: Owner
    lower: Sequence[int]
    upper: Sequence[int]


class Frame(NamedTuple):
    """From events and bytes to pixels."""

    first_event: int
    last_event: int
    top_bytes: float

    def x(self, event: float) -> float:
        share = (event - self.first_event) / max(self.last_event - self.first_event, 1)
        return _LEFT + (_RIGHT - _LEFT) * share

    def y(self, size: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * size / self.top_bytes


def timeline_svg(points: Sequence[Moment], budget_bytes: int) -> str:
    """Stacked areas by owner over the step's events, 800 pixels wide. Raises ValueError where there are no points."""
    if not points:
        raise ValueError("a course of no moments cannot be drawn")
    moments = sorted(points, key=lambda one: one.event)
    fullest = max(moments, key=_total)
    is_near = budget_bytes <= _BEYOND * _total(fullest) or not _total(fullest)
    top = max(_total(fullest), budget_bytes if is_near else 0, 1)
    frame = Frame(moments[0].event, moments[-1].event, _HEADROOM * top)
    canvas = Canvas(WIDTH, f"Memory over one training step, {gib(_total(fullest))} GiB at its fullest")
    canvas.text(12, 24, "Memory over one training step", HEADING)
    canvas.text(12, 43, _peak_words(fullest))
    _draw_axes(canvas, frame)
    layers = list(_layers(moments))
    for layer in layers:
        _draw_layer(canvas, frame, layer, moments)
    _draw_phases(canvas, frame, moments)
    canvas.dot(frame.x(fullest.event), frame.y(_total(fullest)), RULE)
    _draw_budget(canvas, frame, budget_bytes, is_drawn=is_near)
    return canvas.to_svg(draw_legend(canvas, [layer.owner for layer in layers], _BOTTOM + 50))


def _total(moment: Moment) -> int:
    return sum(moment.owners.values())


def _peak_words(fullest: Moment) -> str:
    """Where the step is fullest, and what is not in the picture."""
    during = f" ({shortened(_named(fullest.phase), PLAIN, 200)})" if fullest.phase else ""
    peak = f"at most {gib(_total(fullest))} GiB, at event {fullest.event:,}{during}"
    return f"{peak}; the context and the allocator's slack come on top"


def _layers(moments: Sequence[Moment]) -> Iterator[Layer]:
    """From the bottom up; owners of nothing are left out."""
    lower = [0] * len(moments)
    for owner in OWNERS:
        sizes = [_held(moment, owner) for moment in moments]
        if any(sizes):
            upper = [below + size for below, size in zip(lower, sizes, strict=True)]
            yield Layer(owner, lower, upper)
            lower = upper


def _held(moment: Moment, owner: Owner) -> int:
    return sum(size for name, size in moment.owners.items() if owner_named(name) is owner)


def _draw_layer(canvas: Canvas, frame: Frame, layer: Layer, moments: Sequence[Moment]) -> None:
    across = [frame.x(moment.event) for moment in moments]
    there = list(zip(across, map(frame.y, layer.upper), strict=True))
    back = list(zip(across, map(frame.y, layer.lower), strict=True))[::-1]
    most = max(high - low for low, high in zip(layer.lower, layer.upper, strict=True))
    canvas.area([*there, *back], layer.owner.fill, f"{layer.owner.name}: up to {most / GIB:.2f} GiB")


def _draw_axes(canvas: Canvas, frame: Frame) -> None:
    for value in ticks(frame.top_bytes / GIB, most=7):
        y = frame.y(value * GIB)
        canvas.line((_LEFT, y), (_RIGHT, y), GRID)
        canvas.text(_LEFT - 8, y + 4, f"{value:g}", Type(11, _FAINT, "end"))
    canvas.text(_LEFT - 8, _TOP - 12, "GiB", Type(11, _FAINT, "end"))
    for event in ticks(frame.last_event - frame.first_event):
        x = frame.x(frame.first_event + event)
        canvas.text(x, _BOTTOM + 16, f"{frame.first_event + event:,.0f}", Type(11, _FAINT, "middle"))
    canvas.text((_LEFT + _RIGHT) / 2, _BOTTOM + 34, "allocations and frees", Type(12, anchor="middle"))


def _draw_phases(canvas: Canvas, frame: Frame, moments: Sequence[Moment]) -> None:
    """A band over every phase, and its name where there is room beside the one before; a line where it begins."""
    free_from = _LEFT
    runs = [(phase, next(run).event) for phase, run in groupby(moments, key=lambda one: one.phase)]
    ends = [event for _, event in runs[1:]] + [frame.last_event]
    for index, ((phase, begin), end) in enumerate(zip(runs, ends, strict=True)):
        if not phase:
            continue
        left, right = frame.x(begin), frame.x(end)
        canvas.rect(Box(left, _TOP - 7, right - left, 3), _BANDS[index % 2])
        if index:
            canvas.line((left, _TOP - 6), (left, _BOTTOM), RULE, "1 3")
        words = shortened(_named(phase), SMALL, 200)
        x = min(left, _RIGHT - text_width(words, SMALL))
        if x >= free_from:
            canvas.text(x, _TOP - 12, words, SMALL)
            free_from = x + text_width(words, SMALL) + 8


def _named(phase: str) -> str:
    return phase.replace("_", " ")


def _draw_budget(canvas: Canvas, frame: Frame, budget_bytes: int, *, is_drawn: bool) -> None:
    """A rule with its words beside the picture; an arrow where it lies beyond."""
    y = frame.y(budget_bytes) if is_drawn else _TOP
    if is_drawn:
        canvas.line((_LEFT, y), (_RIGHT, y), RULE, "6 3")
    canvas.text(_RIGHT + 6, y + 4, "may use" if is_drawn else "↑ may use", Type(12, bold=True))
    canvas.text(_RIGHT + 6, y + 19, f"{gib(budget_bytes)} GiB", Type(12, bold=True))
