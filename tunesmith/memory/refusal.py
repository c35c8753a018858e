"""What is said when nothing fits: the phase and its numbers, and the nearest plan that would."""

from collections.abc import Iterator
from typing import NamedTuple

from tunesmith.artifacts import Hardware, Plan
from tunesmith.errors import DoesNotFit
from tunesmith.memory.bill import Case, peaks
from tunesmith.memory.cards import CARDS
from tunesmith.memory.constants import GIB
from tunesmith.memory.search import Way, excess, first_fit, method_name, settle, ways
from tunesmith.specs.recipe import Recipe
from tunesmith.specs.train import Full, Lora, QLora


class Option(NamedTuple):
    """A way out: what to change, and the plan it would have."""

    words: str
    plan: Plan


_UNBOUNDED = 2**60
_SHORTEST = 64
"""Rows shorter than this, in tokens, are not worth proposing."""


def machine_refusal(case: Case, reason: str) -> DoesNotFit:
    """For a machine that is not what the recipe asks for; the bill is that of the nearest plan, on another one."""
    nearest = smallest_card(case)
    plan = nearest.plan if nearest else None
    shown = plan.bill if plan else _smallest(case, machine_with(len(CARDS) - 1)).items
    return DoesNotFit(f"{_subject(case)} {reason}: {_advice([nearest] if nearest else [])}", bill=shown, plan=plan)


def memory_refusal(case: Case, hardware: Hardware) -> DoesNotFit:
    """For a machine whose memory does not suffice; the bill is that of the most frugal plan."""
    smallest = _smallest(case, hardware)
    over = excess(smallest.items, case, hardware)
    assert over is not None, "only a plan that does not fit is refused"
    phase, needed, allowed = over
    options = [option for option in (_on_this_machine(case, hardware), smallest_card(case)) if option]
    return DoesNotFit(
        f"{_subject(case)} does not fit: {phase} needs {needed / GIB:.1f} GiB and may use {allowed / GIB:.1f} "
        f"({case.recipe.hardware.headroom:.0%} stay free): {_advice(options)}",
        bill=smallest.items,
        closest=settle(smallest, case, hardware),
        plan=options[0].plan if options else None,
    )


def _subject(case: Case) -> str:
    return f"{case.source.repo} with {method_name(case.recipe.train)}"


def _advice(options: list[Option]) -> str:
    if not options:
        return "no single GPU would do, so choose a smaller model or shorter rows."
    return "nearest plan that fits: " + ", or ".join(f"{words}, {_figures(plan)}" for words, plan in options) + "."


def _figures(plan: Plan) -> str:
    recomputed = " with gradient checkpointing" if plan.gradient_checkpointing else ""
    return (
        f"micro-batch {plan.micro_batch_size} x {plan.accumulation_steps}{recomputed}, "
        f"{plan.peak_bytes / GIB:.1f} of {plan.budget_bytes / GIB:.1f} GiB"
    )


def _smallest(case: Case, hardware: Hardware) -> Way:
    return min(ways(case, hardware), key=lambda way: max(peaks(way.items).values()))


def _on_this_machine(case: Case, hardware: Hardware) -> Option | None:
    """The smallest change to the recipe that makes it fit: half the length, NF4, then shorter still."""
    for words, recipe in _changed(case.recipe):
        if plan := first_fit(case._replace(recipe=recipe), hardware):
            return Option(f"{words} on this machine", plan)
    return None


def _changed(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    lengths = [recipe.train.max_length >> halvings for halvings in (1, 2, 3)]
    shorter = [(f"train.max_length {length}", _shortened(recipe, length)) for length in lengths if length >= _SHORTEST]
    yield from shorter[:1]
    if isinstance(recipe.train, Lora | Full):
        yield "train.method qlora", recipe.model_copy(update={"train": _packed(recipe.train)})
    yield from shorter[1:]


def _shortened(recipe: Recipe, length: int) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"max_length": length})})


def _packed(train: Lora | Full) -> QLora:
    common = {name: getattr(train, name) for name in type(train).model_fields if name in QLora.model_fields}
    return QLora.model_validate({**common, "method": "qlora"})


def smallest_card(case: Case) -> Option | None:
    """The smallest GPU of the table that would do, in a machine whose host memory does too."""
    alone = case.recipe.parallel.model_copy(update={"strategy": "auto", "world_size": 1, "offload": "none"})
    case = case._replace(recipe=case.recipe.model_copy(update={"parallel": alone}))
    for index, card in enumerate(CARDS):
        if plan := first_fit(case, machine_with(index)):
            return Option(f"1 x {card.memory_bytes / GIB:.0f} GiB ({card.name})", plan)
    return None


def machine_with(index: int) -> Hardware:
    return Hardware(device="cuda", devices=(CARDS[index],), ram_bytes=_UNBOUNDED, cores=1)
