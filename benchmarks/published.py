"""Is the bill right on GPUs that others measured: every published row beside its bill.

`python benchmarks/published.py` reads benchmarks/published/*.yaml, bills each row, prints Markdown tables and writes
them to benchmarks/results/published.md. Arithmetic only: no GPU, no torch. No row has a constant of its own; what a
source's software does otherwise is a named mechanism, for all rows of that source alike, and errors are shown without
and with it.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.published_mechanisms import MECHANISMS
from benchmarks.published_rows import Moments, Row, Serving, Source, Training, load
from tunesmith.memory.cards import find_card
from tunesmith.memory.constants import CUDA_CONTEXT_BYTES, GIB
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.slack import plain_slack, step_slack
from tunesmith.memory.training import total

RESULT = Path(__file__).parent / "results/published.md"
_PREFACE = """\
The bill beside what others measured. Low is allocated memory with the CUDA context, high adds what the allocator holds
beyond it; where the source read torch's allocated memory, both are that alone. Errors are the bill's, + is too much; of
the nearer end 0 where the figure lies within. Mechanisms are what a source's software does otherwise, listed below.
"""
UNITS = {"GB": 10**9, "GiB": GIB, "MiB": 2**20}


class Interval(NamedTuple):
    """Bytes a row is billed, and the moment it has them."""

    low: int
    high: int
    fullest: str


class Errors(NamedTuple):
    """Signed, in percent of what was published: of the nearer end, 0 within the interval, and of the high end."""

    nearer: float
    high: float


def billed(source: Source, row: Row, *, mechanisms: bool) -> Interval:
    """What the source's metric would show: its low end without what the allocator holds beyond tensors."""
    shape = source.shape(row)
    found = row.moments(shape)
    for mechanism in source.mechanisms if mechanisms else ():
        found = MECHANISMS[mechanism.name](row, shape, found)
    fullest = max(found, key=lambda moment: total(found[moment]))
    context, slack = _beyond(source, row, shape, found)
    low = total(found[fullest]) + context
    together = row.gpus if isinstance(row, Training) else 1
    return Interval(low * together, (low + slack) * together, fullest)


def _beyond(source: Source, row: Row, shape: ModelShape, found: Moments) -> tuple[int, int]:
    """Context and slack, as far as the metric sees them; serving, and parts of it, are billed as they are."""
    if isinstance(row, Serving):
        return (CUDA_CONTEXT_BYTES if row.quantity == "beside" else 0), 0
    context = CUDA_CONTEXT_BYTES if source.metric == "device" else 0
    if source.metric == "allocated":
        return context, 0
    if isinstance(row, Training):
        return context, step_slack(shape, row.step(row.method), found)
    return context, plain_slack(max(found.values(), key=total))


def errors(interval: Interval, published_bytes: float) -> Errors:
    low, high = (100 * (end / published_bytes - 1) for end in interval[:2])
    nearer = 0.0 if low <= 0 <= high else min(low, high, key=abs)
    return Errors(nearer, high)


class Compared(NamedTuple):
    """A row, its bill without the source's mechanisms, and with them."""

    source: Source
    row: Row
    plain: Interval
    adjusted: Interval

    @property
    def published_bytes(self) -> float:
        return (self.row.published or 0) * UNITS[self.source.unit]

    def errors(self, *, mechanisms: bool) -> Errors:
        return errors(self.adjusted if mechanisms else self.plain, self.published_bytes)


def compared(sources: list[Source]) -> list[Compared]:
    return [
        Compared(source, row, billed(source, row, mechanisms=False), billed(source, row, mechanisms=True))
        for source in sources
        for row in source.rows
    ]


def rows_table(rows: list[Compared]) -> Iterator[str]:
    yield (
        "| source | row | published | low | high | nearer end % | high end % | fullest at "
        "| with mechanisms: low | high | nearer end % | high end % |"
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |"
    for found in rows:
        unit = UNITS[found.source.unit]
        cells = [found.source.source, found.row.name, f"{found.row.published:g} {found.source.unit}"]
        cells += [*_ends(found.plain, unit), *_signed(found.errors(mechanisms=False)), found.plain.fullest]
        if found.source.mechanisms:
            cells += [*_ends(found.adjusted, unit), *_signed(found.errors(mechanisms=True))]
        else:
            cells += ["", "", "", ""]
        yield f"| {' | '.join(cells)} |"


def means_table(rows: list[Compared]) -> Iterator[str]:
    """Mean absolute errors by source, and over all."""
    yield "| source | rows | within | high end % | nearer end % | with mechanisms: within | high end % | nearer end % |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    groups = {source: [row for row in rows if row.source.source == source] for source in _names(rows)}
    training = [row for row in rows if row.row.kind == "train"]
    for name, members in (groups | {"all training steps": training, "all": rows}).items():
        cells = [name, str(len(members)), *_means(members, mechanisms=False), *_means(members, mechanisms=True)]
        yield f"| {' | '.join(cells)} |"


def failed_table(rows: list[Compared]) -> Iterator[str]:
    """Of what ran out of memory: the bill, beside the card's memory."""
    yield "| source | row | card, GiB | low, GiB | high, GiB | with mechanisms: low | high |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for found in rows:
        card = find_card(found.row.card).memory_bytes / GIB
        cells = [found.source.source, found.row.name, f"{card:.0f}"]
        cells += [*_ends(found.plain, GIB), *_ends(found.adjusted, GIB)]
        yield f"| {' | '.join(cells)} |"


def readings(rows: list[Compared]) -> Iterator[str]:
    """Where GB is not defined: the mean error of the high end under both readings, with mechanisms."""
    for name in _names(rows):
        members = [row for row in rows if row.source.source == name and not row.source.unit_stated]
        if not members:
            continue
        means = [
            fmean(abs(errors(row.adjusted, (row.row.published or 0) * size).high) for row in members)
            for size in (10**9, GIB)
        ]
        yield f"- {name}: GB as 10^9 bytes {means[0]:.1f} %, as 2^30 bytes {means[1]:.1f} %."


def conditions(sources: list[Source]) -> Iterator[str]:
    for source in sources:
        yield f"### {source.source}\n"
        yield f"{source.where}; {source.software}. Metric: {source.metric}.\n"
        yield from (f"- {note}" for note in source.notes)
        yield from (f"- Mechanism `{item.name}`: {item.reason}" for item in source.mechanisms)
        yield from (f"- Not billed: {item}" for item in source.not_billed)
        yield ""


def report(sources: list[Source]) -> str:
    rows = compared(sources)
    measured = [row for row in rows if row.row.published is not None]
    failed = [row for row in rows if row.row.published is None]
    lines = [
        _PREFACE,
        *rows_table(measured),
        "\n## Mean absolute errors\n",
        *means_table(measured),
        "\nSources that do not say what their GB is, high end with mechanisms:\n",
        *readings(measured),
        "\n## What ran out of memory\n",
        *failed_table(failed),
        "\n## Conditions\n",
        *conditions(sources),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _names(rows: list[Compared]) -> list[str]:
    return list(dict.fromkeys(row.source.source for row in rows))


def _ends(interval: Interval, unit: int) -> list[str]:
    return [f"{interval.low / unit:.2f}", f"{interval.high / unit:.2f}"]


def _signed(found: Errors) -> list[str]:
    return ["0" if found.nearer == 0 else f"{found.nearer:+.1f}", f"{found.high:+.1f}"]


def _means(rows: list[Compared], *, mechanisms: bool) -> list[str]:
    found = [row.errors(mechanisms=mechanisms) for row in rows]
    within = sum(each.nearer == 0 for each in found)
    return [
        str(within),
        f"{fmean(abs(each.high) for each in found):.1f}",
        f"{fmean(abs(each.nearer) for each in found):.1f}",
    ]


def main() -> None:
    text = report(load())
    RESULT.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
