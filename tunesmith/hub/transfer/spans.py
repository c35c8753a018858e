"""Which bytes of a file there are: sorted, disjoint, half-open ranges."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Span = tuple[int, int]
"""First byte, and the byte after the last."""


class Spans:
    """A set of bytes; ranges that touch become one."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in spans:
            self.add(start, end)

    def __iter__(self) -> Iterator[Span]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __bool__(self) -> bool:
        return bool(self._starts)

    @property
    def total(self) -> int:
        """How many bytes it holds."""
        return sum(self._ends) - sum(self._starts)

    @property
    def prefix(self) -> int:
        """How many bytes it holds from the file's beginning without a hole."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    def add(self, start: int, end: int) -> None:
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        after = bisect_right(self._starts, end)
        if first < after:
            start, end = min(start, self._starts[first]), max(end, self._ends[after - 1])
        self._starts[first:after], self._ends[first:after] = [start], [end]

    def holes(self, size: int) -> list[Span]:
        """What a file of `size` bytes lacks, in order."""
        edges = [0, *(edge for span in self for edge in span), size]
        pairs = zip(edges[::2], edges[1::2], strict=True)
        return [(start, min(end, size)) for start, end in pairs if start < min(end, size)]

    def clipped(self, size: int) -> "Spans":
        """The part that lies in the first `size` bytes."""
        return Spans((start, min(end, size)) for start, end in self if start < size)

    def without(self, other: "Spans") -> "Spans":
        """The bytes that `other` does not hold."""
        edge = max((end for _, end in self), default=0)
        gone = Spans([*self.holes(edge), *other])
        return Spans(gone.holes(edge))
