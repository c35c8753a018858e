"""An SVG document: shapes, words whose room is known, and an axis with round numbers.

A document stands alone: no style sheet, no script, no identifiers that could meet those of another one on a page.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from tunesmith.memory.constants import GIB

_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 (section 2.2) has no place for, escaped or not."""
_EM_PER_LETTER, _EM_PER_BOLD_LETTER = 0.6, 0.68
"""Of the widest sans-serif in common use, so that words are narrower than they are taken to be."""
_FIRST_WIDE = 0x1100
"""From here on scripts have letters as wide as they are high."""


class Box(NamedTuple):
    """A rectangle, pixels; y runs downwards."""

    x: float
    y: float
    width: float
    height: float


class Type(NamedTuple):
    """How words are set."""

    size: float = 12
    ink: str = "#1b1b1b"
    anchor: Literal["start", "middle", "end"] = "start"
    bold: bool = False


PLAIN = Type()


class Canvas:
    """A picture that grows, `width` pixels wide."""

    def __init__(self, width: float, title: str) -> None:
        self._width = width
        self._root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "font-family": _FONTS})
        self._hint(self._root, title)
        self._ground = self._add("rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})

    def rect(self, box: Box, fill: str, hint: str = "") -> None:
        """A filled rectangle, with words that appear under the pointer."""
        facts = {"x": box.x, "y": box.y, "width": box.width, "height": box.height}
        self._hint(self._add("rect", {"fill": fill, **_written(facts)}), hint)

    def area(self, outline: Iterable[tuple[float, float]], fill: str, hint: str = "") -> None:
        """A filled polygon."""
        points = " ".join(f"{_number(x)},{_number(y)}" for x, y in outline)
        self._hint(self._add("polygon", {"fill": fill, "points": points}), hint)

    def line(self, start: tuple[float, float], end: tuple[float, float], stroke: str, dashes: str = "") -> None:
        ends = _written({"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]})
        self._add("line", {"stroke": stroke, **ends, **({"stroke-dasharray": dashes} if dashes else {})})

    def dot(self, x: float, y: float, fill: str) -> None:
        self._add("circle", {"fill": fill, "r": "4", "stroke": "#ffffff", **_written({"cx": x, "cy": y})})

    def text(self, x: float, y: float, words: str, style: Type = PLAIN) -> None:
        """Words on a baseline."""
        facts = {"fill": style.ink, "text-anchor": style.anchor, **_written({"x": x, "y": y, "font-size": style.size})}
        if style.bold:
            facts["font-weight"] = "bold"
        self._add("text", facts).text = _clean(words)

    def to_svg(self, height: float) -> str:
        self._root.set("viewBox", f"0 0 {_number(self._width)} {_number(height)}")
        for name, size in _written({"width": self._width, "height": height}).items():
            self._root.set(name, size)
            self._ground.set(name, size)
        return tostring(self._root, encoding="unicode")

    def _add(self, name: str, facts: dict[str, str]) -> Element:
        return SubElement(self._root, name, facts)

    @staticmethod
    def _hint(element: Element, words: str) -> None:
        if words:
            SubElement(element, "title").text = _clean(words)


def text_width(words: str, style: Type) -> float:
    """Pixels that words take at most."""
    each = _EM_PER_BOLD_LETTER if style.bold else _EM_PER_LETTER
    return style.size * sum(1.0 if ord(letter) >= _FIRST_WIDE else each for letter in words)


def shortened(words: str, style: Type, room: float) -> str:
    """As much of the words as fits, with an ellipsis where something is missing."""
    if text_width(words, style) <= room:
        return words
    kept = words
    while kept and text_width(kept, style) + style.size > room:
        kept = kept[:-1]
    return kept.rstrip() + "…" if kept else ""


def ticks(top: float, most: int = 8) -> Sequence[float]:
    """Round numbers from 0 to `top`, at most so many steps apart by 1, 2 or 5 times a power of ten."""
    if top <= 0:
        return (0.0,)
    rough = top / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return tuple(index * step for index in range(math.floor(top / step + 1e-9) + 1))


def gib(size: float) -> str:
    """A size as pictures name it, three or four digits: 0.05, 3.14, 20.9."""
    value = size / GIB
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}"


def _clean(words: str) -> str:
    return _FORBIDDEN.sub("\ufffd", words)


def _written(facts: dict[str, float]) -> dict[str, str]:
    return {name: _number(value) for name, value in facts.items()}


def _number(value: float) -> str:
    return f"{round(value, 2):g}"
