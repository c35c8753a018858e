"""The bill as a picture: a bar per phase, cut into its items, against what the device has."""

import base64
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from tunesmith.artifacts import Plan
from tunesmith.memory.canvas import PLAIN, Box, Canvas, Type, gib, shortened, text_width, ticks
from tunesmith.memory.constants import GIB
from tunesmith.memory.owners import OWNERS, Owner, owner_of
from tunesmith.memory.said import BillItem

WIDTH = 800.0
_LEFT, _RIGHT = 96.0, 712.0
"""Edges of the bars; names stand before them, sums behind."""
_TOP, _BAR, _PITCH = 74.0, 36.0, 46.0
_BEYOND = 3
"""A limit this many times the fullest phase is named and not drawn: the bars would be slivers."""

HEADING = Type(15, bold=True)
SMALL = Type(11)
GRID, RULE = "#e3e3e3", "#1b1b1b"
_FAINT, _RED = "#5c5c5c", "#a4262c"


class Bar(NamedTuple):
    """One phase's device memory."""

    phase: str
    items: Sequence[BillItem]
    """In the order they are stacked."""

    @property
    def total(self) -> int:
        return sum(item.bytes for item in self.items)


class Limit(NamedTuple):
    """A figure that bars are held against."""

    words: str
    bytes: int
    dashes: str


class Scale(NamedTuple):
    """From bytes to pixels."""

    top_bytes: float

    def x(self, size: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * size / self.top_bytes


def bill_svg(plan: Plan, headroom: float | None = None) -> str:
    """The bill's device memory, 800 pixels wide: phases, what they may use, and, given the share of the device that
    is left free, what it has.
    """
    bars, limits = _bars(plan), _limits(plan, headroom)
    fullest = max((bar.total for bar in bars), default=0)
    drawn = [limit for limit in limits if not fullest or limit.bytes <= _BEYOND * fullest]
    scale = Scale(max([fullest, *(limit.bytes for limit in drawn)]) or 1)
    bottom = _TOP + _PITCH * len(bars)
    canvas = Canvas(WIDTH, plan.summary)
    canvas.text(12, 24, _heading(plan), HEADING)
    _draw_grid(canvas, scale, bottom)
    for index, bar in enumerate(bars):
        _draw_bar(canvas, scale, bar, Box(_LEFT, _TOP + _PITCH * index, 0, _BAR), [one.bytes for one in drawn])
        _draw_names(canvas, bar, _TOP + _PITCH * index + _BAR / 2, plan.budget_bytes)
    _draw_limits(canvas, scale, limits, drawn, bottom)
    owners = {owner_of(item) for bar in bars for item in bar.items}
    return canvas.to_svg(draw_legend(canvas, [one for one in OWNERS if one in owners], bottom + 40))


def markdown_image(svg: str, alt: str) -> str:
    """A Markdown image that holds the picture itself; `alt` is what is read where it cannot be shown."""
    encoded = base64.b64encode(svg.encode()).decode()
    quoted = "".join(f"\\{letter}" if letter in "\\[]<>`" else letter for letter in " ".join(alt.split()))
    return f"![{quoted}](data:image/svg+xml;base64,{encoded})"


def bill_image(plan: Plan | None, headroom: float | None = None) -> str:
    """The picture as a Markdown paragraph; empty where there is no plan to draw."""
    return f"{markdown_image(bill_svg(plan, headroom), plan.summary)}\n\n" if plan else ""


def draw_legend(canvas: Canvas, owners: Sequence[Owner], y: float) -> float:
    """Colours and their names in as many lines as they need, from `y` on; returns where they end."""
    x = 12.0
    for owner in owners:
        width = 18 + text_width(owner.name, PLAIN) + 14
        if x + width > WIDTH:
            x, y = 12.0, y + 22
        canvas.rect(Box(x, y, 12, 12), owner.fill)
        canvas.text(x + 18, y + 10.5, owner.name)
        x += width
    return y + 26


def _heading(plan: Plan) -> str:
    if plan.device == "cpu":
        return "Host memory by phase, GiB"
    return f"Memory of {'each' if plan.step.parallel.world_size > 1 else 'the'} GPU by phase, GiB"


def _bars(plan: Plan) -> list[Bar]:
    """Every phase of the bill, also one that leaves the device alone."""
    found: dict[str, list[BillItem]] = {}
    for item in plan.bill:
        found.setdefault(item.phase, []).extend([item] if item.place == "device" else [])
    return [Bar(phase, sorted(items, key=lambda one: OWNERS.index(owner_of(one)))) for phase, items in found.items()]


def _limits(plan: Plan, headroom: float | None) -> list[Limit]:
    found = [Limit(f"may use {gib(plan.budget_bytes)} GiB", plan.budget_bytes, "6 3")]
    if headroom is not None:
        total = round(plan.budget_bytes / (1 - headroom))
        found.append(Limit(f"device has {gib(total)} GiB", total, ""))
    return found


def _draw_grid(canvas: Canvas, scale: Scale, bottom: float) -> None:
    for value in ticks(scale.top_bytes / GIB):
        x = scale.x(value * GIB)
        canvas.line((x, _TOP - 6), (x, bottom), GRID)
        canvas.text(x, bottom + 16, f"{value:g}", Type(11, _FAINT, "middle"))


def _draw_bar(canvas: Canvas, scale: Scale, bar: Bar, place: Box, limits: Sequence[int]) -> None:
    """Segments end to end; the lines that part them are drawn over them, so that lengths stay true."""
    begin = 0
    for item in bar.items:
        end, owner = begin + item.bytes, owner_of(item)
        left, right = scale.x(begin), scale.x(end)
        hint = f"{bar.phase}: {item.item}, {item.bytes / GIB:.2f} GiB"
        canvas.rect(place._replace(x=left, width=right - left), owner.fill, hint)
        if begin:
            canvas.line((left, place.y), (left, place.y + place.height), "#ffffff")
        room = _widest([left, *(x for x in map(scale.x, limits) if left < x < right), right])
        _draw_label(canvas, item, owner, place._replace(x=room[0], width=room[1] - room[0]))
        begin = end


def _widest(edges: Sequence[float]) -> tuple[float, float]:
    """The widest stretch between two edges, so that no line runs through a label."""
    return max(pairwise(edges), key=lambda pair: pair[1] - pair[0])


def _draw_label(canvas: Canvas, item: BillItem, owner: Owner, room: Box) -> None:
    """The item and its size, or the size alone, or nothing, as there is room."""
    style, middle, baseline = Type(11, owner.ink, "middle"), room.x + room.width / 2, room.y + room.height / 2
    lines = next((lines for lines in _labels(item) if _fit(lines, style, room.width - 6)), ())
    for index, words in enumerate(lines):
        canvas.text(middle, baseline + 4 + 14 * (index - (len(lines) - 1) / 2), words, style)


def _labels(item: BillItem) -> Iterator[tuple[str, ...]]:
    size = gib(item.bytes)
    yield item.item, size
    yield item.item.partition(" (")[0], size
    yield (size,)


def _fit(lines: Sequence[str], style: Type, room: float) -> bool:
    return all(text_width(words, style) <= room for words in lines)


def _draw_names(canvas: Canvas, bar: Bar, middle: float, budget_bytes: int) -> None:
    """The phase before its bar, and the sum behind it, red where it is too much."""
    name = Type(13, bold=True, anchor="end")
    canvas.text(_LEFT - 10, middle + 5, shortened(bar.phase, name, _LEFT - 22), name)
    if not bar.items:
        canvas.text(WIDTH - 12, middle + 4, "host only", Type(11, _FAINT, "end"))
        return
    over = bar.total > budget_bytes
    style = Type(13, _RED if over else RULE, "end", bold=True)
    canvas.text(WIDTH - 12, middle + (-2 if over else 5), gib(bar.total), style)
    if over:
        canvas.text(WIDTH - 12, middle + 13, "too much", Type(11, _RED, "end"))


def _draw_limits(canvas: Canvas, scale: Scale, limits: Sequence[Limit], drawn: Sequence[Limit], bottom: float) -> None:
    """Each with its words in a line of its own above the bars, ending at its rule; an arrow where it lies beyond."""
    for index, limit in enumerate(limits):
        baseline, style = _TOP - 14 - 16 * index, Type(12, bold=limit is limits[0], anchor="end")
        if limit not in drawn:
            canvas.text(_RIGHT, baseline, f"{limit.words} →", style)
            continue
        x = scale.x(limit.bytes)
        canvas.line((x, _TOP - 10), (x, bottom), RULE, limit.dashes)
        canvas.text(max(x, 12 + text_width(limit.words, style)), baseline, limit.words, style)
