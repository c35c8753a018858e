"""The bill as a page: one HTML file with its pictures in it, to be looked at, kept and sent on."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tunesmith.artifacts import Plan
from tunesmith.memory.bill import peaks
from tunesmith.memory.canvas import gib
from tunesmith.memory.constants import GIB
from tunesmith.memory.owners import Owner, owner_of
from tunesmith.memory.picture import bill_svg
from tunesmith.memory.said import BillItem
from tunesmith.memory.timeline import Moment, timeline_svg

_TEMPLATE = "page.html.j2"


class Rows(NamedTuple):
    """A phase's items in one memory."""

    phase: str
    place: str
    items: Sequence[tuple[BillItem, Owner]]

    @property
    def total(self) -> int:
        return sum(item.bytes for item, _ in self.items)


def page(
    plan: Plan,
    points: Sequence[Moment] | None = None,
    *,
    headroom: float | None = None,
    subject: str = "",
    notes: Sequence[str] = (),
) -> str:
    """The page of a plan: pictures, bill, and what was tried before.

    `points` are the moments of a simulated step; `headroom` is the share of the device left free, from which its whole
    memory follows; `subject` is what the plan is for, and `notes` are sentences to be read first.
    """
    folder = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["gib"] = _exact
    # Markup: the pictures are documents already, with every word in them escaped.
    return pages.get_template(_TEMPLATE).render(
        plan=plan,
        subject=subject,
        notes=notes,
        facts=_facts(plan),
        bill=Markup(bill_svg(plan, headroom)),
        timeline=Markup(timeline_svg(points, plan.budget_bytes)) if points else "",
        phases=_phases(plan.bill),
    )


def _facts(plan: Plan) -> dict[str, str]:
    """The plan's figures by name."""
    by_phase = peaks(plan.bill)
    fullest = max(by_phase, key=lambda phase: by_phase[phase], default="none")
    facts = {
        "fullest phase": f"{fullest}, {gib(plan.low_bytes)} to {gib(plan.peak_bytes)} GiB",
        "may use": f"{gib(plan.budget_bytes)} GiB",
        "micro-batch": f"{plan.micro_batch_size} x {plan.accumulation_steps}",
        "disk": f"up to {gib(plan.disk_bytes)} GiB",
    }
    if plan.kv_tokens:
        facts["KV cache"] = f"{plan.kv_tokens} tokens, {plan.max_sequences} full sequences"
    return facts


def _exact(size: int) -> str:
    """Two decimals throughout, so that the table's column lines up and adds up."""
    return f"{size / GIB:.2f}"


def _phases(bill: Sequence[BillItem]) -> list[Rows]:
    """Neighbours of one phase and place together, in the bill's order."""
    return [
        Rows(phase, place, [(item, owner_of(item)) for item in items])
        for (phase, place), items in groupby(bill, key=lambda item: (item.phase, item.place))
    ]
