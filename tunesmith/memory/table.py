"""The bill as a table: for the terminal, and as Markdown for a flow run's page."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from tunesmith.artifacts import Plan
from tunesmith.memory.bill import Place
from tunesmith.memory.constants import GIB
from tunesmith.memory.said import BillItem

_COLUMNS = ("phase", "item", "GiB")


def bill_table(bill: Sequence[BillItem], plan: Plan | None = None) -> Table:
    """One line per item and a sum per phase; the plan's line as the title."""
    table = Table(*_COLUMNS[:-1], title=plan.summary if plan else None)
    table.add_column(_COLUMNS[-1], justify="right")
    for phase, items in _by_phase(bill):
        for index, item in enumerate(items):
            table.add_row(phase if index == 0 else "", item.item, _gib(item.bytes))
        table.add_row("", "[bold]sum[/]", f"[bold]{_gib(_sum(items))}[/]", end_section=True)
    return table


def bill_markdown(bill: Sequence[BillItem], plan: Plan | None = None) -> str:
    """The same as Markdown, phases with their sums in bold."""
    lines = [f"**{plan.summary}**", ""] if plan else []
    lines += [f"| {' | '.join(_COLUMNS)} |", "| --- | --- | ---: |"]
    for phase, items in _by_phase(bill):
        lines.append(f"| **{phase}** | **sum** | **{_gib(_sum(items))}** |")
        lines += [f"| | {item.item} | {_gib(item.bytes)} |" for item in items]
    return "\n".join(lines)


def _by_phase(bill: Sequence[BillItem]) -> Iterator[tuple[str, list[BillItem]]]:
    """Items of one phase and place together, in the bill's order."""
    groups: dict[tuple[str, Place], list[BillItem]] = {}
    for item in bill:
        groups.setdefault((item.phase, item.place), []).append(item)
    for (phase, place), items in groups.items():
        yield (f"{phase} (host memory)" if place == "host" else phase), items


def _sum(items: Sequence[BillItem]) -> int:
    return sum(item.bytes for item in items)


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
