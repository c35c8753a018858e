"""What the command line prints."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tunesmith.artifacts import Plan
from tunesmith.doctor import Finding
from tunesmith.errors import DoesNotFit, StoreNotWritable
from tunesmith.forecast import Estimated, Planned
from tunesmith.ledger import Entry
from tunesmith.memory.confirm import Confirmation
from tunesmith.memory.estimate import to_json
from tunesmith.memory.table import bill_table

_out = Console()
_err = Console(stderr=True)


def page(plan: Plan, points: Any = None, **said: Any) -> str:
    """The plan as HTML; imported late, since no other command has a page and the template engine is slow to load."""
    from tunesmith.memory.page import page as render

    return render(plan, points, **said)


def json_line(facts: Any) -> None:
    """One JSON object on one line of stdout, nothing else."""
    print(json.dumps(facts, default=str), flush=True)


def error(message: str) -> None:
    """One sentence on stderr."""
    _err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)


def run_report(facts: dict[str, Any]) -> None:
    _out.print(_stages(facts["stages"]))
    if facts["scores"]:
        _out.print(_scores(facts["scores"]))
    if facts["endpoint"]:
        _out.print(f"[bold green]{facts['release']}[/] answers at [bold]{facts['endpoint']}[/]")


def planned(laid_out: Planned, as_json: bool) -> None:
    if as_json:
        json_line(laid_out.facts())
        return
    source = laid_out.source
    _out.print(f"{source.repo} at {source.commit[:12]}, {source.total_bytes / 2**30:.2f} GiB")
    table = Table("stage", "room", "done")
    for job in laid_out.jobs:
        table.add_row(job["stage"], job["room"], "yes" if job["done"] else "")
    _out.print(table)
    plan_report(laid_out.plan)


def estimated(found: Estimated, as_json: bool, seconds: float, html: Path | None = None) -> None:
    """The bill, the rungs that did not fit, and the decision; on a page too, where there is a file for it."""
    if html:
        _write_page(html, found)
    solved = {found.solved.unknown: found.solved.value} if found.solved else None
    if as_json:
        facts = {**to_json(found.plan), "card": found.card, "solved": solved}
        json_line({**facts, "simulation": _simulated(found.confirmation), "seconds": round(seconds, 3)})
        return
    plan_report(found.plan)
    for note in found.notes():
        _out.print(escape(note), soft_wrap=True)
    if html:
        _out.print(f"Pictures: {escape(str(html))}", soft_wrap=True, highlight=False)


def plan_report(plan: Plan) -> None:
    _out.print(bill_table(plan.bill))
    for rung in plan.rejected:
        _out.print(f"[dim]not {escape(rung.plan)}: {escape(rung.why)}[/]", soft_wrap=True, highlight=False)
    _out.print(plan.summary, soft_wrap=True)


def refusal(refused: DoesNotFit, as_json: bool, seconds: float, html: Path | None = None) -> None:
    """The bill of what does not fit, and why; on a page too, where there is a file for it."""
    shown = refused.closest or refused.plan
    if html and shown:
        _save(html, page(shown, notes=[refused.message]))
    if not as_json:
        _out.print(bill_table(refused.bill))
        error(refused.message)
        return
    facts = to_json(shown) if shown else {"bill": []}
    json_line({**facts, "fits": False, "message": refused.message, "seconds": round(seconds, 3)})


def ledger(found: Sequence[Entry], as_json: bool) -> None:
    if as_json:
        json_line([{**one._asdict(), "error": round(one.error, 4)} for one in found])
        return
    table = Table("phase", "device", "predicted, GiB", "seen, GiB", "outside by", "plan")
    for one in found:
        interval = f"{one.low_bytes / 2**30:.2f} to {one.high_bytes / 2**30:.2f}"
        seen, off = f"{one.seen_bytes / 2**30:.2f}", f"{one.error:+.1%}" if one.error else ""
        table.add_row(one.phase, one.device, interval, seen, off, escape(one.summary))
    _out.print(table)


def status_report(facts: dict[str, Any]) -> None:
    _out.print(_served(facts["served"]))
    table = Table("room", "finished", "seconds", "GiB", title=facts["store"])
    for room in facts["rooms"]:
        table.add_row(room["room"], room["finished_at"], f"{room['seconds']:.1f}", f"{room['bytes'] / 2**30:.2f}")
    _out.print(table)


def stopped(names: Sequence[str]) -> None:
    _out.print("Stopped: " + ", ".join(names) if names else "Nothing was served.")


def findings(found: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        json_line([{"name": one.name, "ok": one.ok, "detail": one.detail} for one in found])
        return
    table = Table("what", "", "detail")
    for one in found:
        table.add_row(one.name, "[green]ok[/]" if one.ok else "[red]mend[/]", escape(one.detail))
    _out.print(table)


def _simulated(confirmation: Confirmation | None) -> dict[str, Any] | None:
    """The simulation as facts; memory in GiB."""
    if confirmation is None:
        return None
    simulation = confirmation.simulation
    peaks = {"forward_backward": simulation.forward_backward, "optimizer": simulation.optimizer}
    peaks |= {"evaluate": simulation.evaluate} if simulation.evaluate else {}
    return {
        "error": round(confirmation.error, 5),
        "evaluation_error": round(confirmation.evaluation.error, 5) if confirmation.evaluation else None,
        "events": simulation.events,
        "versions": simulation.versions,
        **{
            name: {
                "allocated_gib": peak.allocated_bytes / 2**30,
                "reserved_native_gib": peak.reserved_native_bytes / 2**30,
                "reserved_expandable_gib": peak.reserved_expandable_bytes / 2**30,
                "owners_gib": {owner: size / 2**30 for owner, size in peak.owners.items()},
            }
            for name, peak in peaks.items()
        },
    }


def _write_page(path: Path, found: Estimated) -> None:
    points = found.confirmation.simulation.timeline if found.confirmation else None
    recipe, source = found.question.recipe, found.question.source
    _save(path, page(found.plan, points, headroom=recipe.hardware.headroom, subject=source.repo, notes=found.notes()))


def _save(path: Path, text: str) -> None:
    """Raises StoreNotWritable with the reason."""
    try:
        path.write_bytes(text.encode(errors="replace"))
    except OSError as error:
        raise StoreNotWritable(f"{path} cannot be written ({error.strerror}): name another file for --html.") from error


def _served(status: dict[str, Any] | None) -> str:
    if status is None:
        return "served: nothing"
    release = status["served"]["release"]
    health = f"[red]{escape(status['trouble'])}[/]" if status["trouble"] else "[green]healthy[/]"
    since = status["served"]["started_at"]
    where = f"as {release['served_name']} at {release['endpoint']}"
    return f"served: [bold]{release['name']}[/] {where}, {health}, since {since}"


def _stages(records: list[dict[str, Any]]) -> Table:
    table = Table("stage", "seconds", "cached", "room")
    for record in records:
        table.add_row(record["name"], f"{record['seconds']:.1f}", "yes" if record["cached"] else "", record["room"])
    return table


def _scores(scores: dict[str, float]) -> Table:
    table = Table(*scores, title="held-out score")
    table.add_row(*(f"{score:.3f}" for score in scores.values()))
    return table
