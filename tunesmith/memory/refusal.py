"""What is said when nothing fits: what was tried, the phase and its numbers, and the nearest plans that would."""

from collections.abc import Iterator
from typing import NamedTuple

from tunesmith.artifacts import Hardware, Plan
from tunesmith.errors import DoesNotFit
from tunesmith.memory.bill import Case, max_model_len, peaks
from tunesmith.memory.cards import CARDS
from tunesmith.memory.changes import changes, served_tokens
from tunesmith.memory.constants import GIB
from tunesmith.memory.search import IN_CACHE, Excess, Way, budget_bytes, excess, first_fit, method_name, settle, ways
from tunesmith.memory.serving import utilization
from tunesmith.memory.smaller import smaller_model
from tunesmith.specs.train import AutoAdapter


class Option(NamedTuple):
    """A way out: what to change, and the plan it would have."""

    words: str
    plan: Plan


_UNBOUNDED = 2**60


def machine_refusal(case: Case, hardware: Hardware, reason: str) -> DoesNotFit:
    """For a machine that is not what the recipe asks for; the bill is that of the nearest plan, here or elsewhere."""
    options = [option for option in (_with_fewer_gpus(case, hardware), smallest_card(case)) if option]
    plan = options[0].plan if options else None
    shown = plan.bill if plan else _smallest(case, machine_with(len(CARDS) - 1)).items
    return DoesNotFit(f"{_subject(case)} {reason}: {_advice(case, options)}", bill=shown, plan=plan)


def memory_refusal(case: Case, hardware: Hardware, where: str = "on this machine") -> DoesNotFit:
    """For a machine whose memory does not suffice; the bill is that of the most frugal plan.

    `where` is how the machine is called.
    """
    smallest = _smallest(case, hardware)
    over = excess(smallest.items, case, hardware)
    assert over is not None, "only a plan that does not fit is refused"
    options = list(_options(case, hardware, over, where))
    return DoesNotFit(
        f"{_subject(case)} does not fit: {_need(case, hardware, over)}: {_advice(case, options)}",
        bill=smallest.items,
        closest=settle(smallest, case, hardware),
        plan=options[0].plan if options else None,
    )


def unconfirmed_refusal(case: Case, plan: Plan) -> DoesNotFit:
    """For an architecture that is not known, where no plan that was simulated fits, and this one might."""
    return DoesNotFit(
        f"{_subject(case)} is not known to fit: none of the {len(case.findings.known)} steps that were simulated does, "
        "so choose shorter rows, or more memory.",
        bill=plan.bill,
        closest=plan,
    )


def most_frugal(case: Case, hardware: Hardware) -> Plan:
    """The plan that takes the least of the device, fitting or not."""
    return settle(_smallest(case, hardware), case, hardware)


def smallest_card(case: Case, hardware: Hardware | None = None) -> Option | None:
    """The smallest GPU of the table that would do, in a machine whose host memory does too.

    With `hardware`, one larger than its GPUs, and as many as it has.
    """
    gpus = hardware.devices if hardware and hardware.device == "cuda" else ()
    if len(gpus) <= 1:
        alone = case.recipe.parallel.model_copy(update={"strategy": "auto", "world_size": 1, "offload": "none"})
        case = case._replace(recipe=case.recipe.model_copy(update={"parallel": alone}))
    present = min((gpu.memory_bytes for gpu in gpus), default=0)
    for index, card in enumerate(CARDS):
        if card.memory_bytes <= present:
            continue
        if plan := first_fit(case, machine_with(index, max(len(gpus), 1))):
            return Option(card_words(index, max(len(gpus), 1)), plan)
    return None


def machine_with(index: int, count: int = 1) -> Hardware:
    """So many of a card of the table, and host memory without end."""
    return Hardware(device="cuda", devices=(CARDS[index],) * count, ram_bytes=_UNBOUNDED, cores=1)


def card_words(index: int, count: int = 1) -> str:
    """`1 x 24 GiB (RTX 4090)`."""
    card = CARDS[index]
    return f"{count} x {card.memory_bytes / GIB:.0f} GiB ({card.name})"


def _subject(case: Case) -> str:
    train = case.recipe.train
    tried = f"lora r={train.rank}, and then with qlora," if isinstance(train, AutoAdapter) else method_name(train)
    taken_for = "" if not case.shape.note or case.findings.known else f" ({case.shape.note}, not simulated)"
    return f"{case.source.repo}{taken_for} with {tried}"


def _need(case: Case, hardware: Hardware, over: Excess) -> str:
    """The phase that exceeds most, its figures, and what bounds it."""
    needed, allowed = f"{over.needed_bytes / GIB:.1f}", f"{over.allowed_bytes / GIB:.1f}"
    kept = f"({case.recipe.hardware.headroom:.0%} stay free)"
    if over.phase == IN_CACHE or (over.phase == "serve" and hardware.device == "cuda"):
        is_share = over.allowed_bytes < budget_bytes(case, hardware)
        kept = f"(gpu-memory-utilization {utilization(case.recipe.serve):g})" if is_share else kept
        what, kept = ("KV cache", "(serve.kv_cache_gib)") if over.phase == IN_CACHE else ("weights and KV cache", kept)
        return (
            f"serve needs {needed} GiB of {what} for one sequence of {max_model_len(case.recipe)} tokens and may use "
            f"{allowed} {kept}, room for {served_tokens(case, hardware, over) or 'none'}"
        )
    before = _before_packing(case, hardware, over)
    tried = f" with qlora, {before / GIB:.1f} with lora," if before else ""
    return f"{over.phase} needs {needed} GiB{tried} and may use {allowed} {kept}"


def _before_packing(case: Case, hardware: Hardware, over: Excess) -> int | None:
    """The least that the phase takes with LoRA, bytes, where QLoRA was tried after it."""
    if not isinstance(case.recipe.train, AutoAdapter):
        return None
    phase, _, rest = over.phase.partition(" ")
    found = (
        peaks(way.items, "host" if rest else "device")[phase]
        for way in ways(case, hardware)
        if way.layout.step.method.method == "lora"
    )
    least = min(found)
    return least if least != over.needed_bytes else None


def _advice(case: Case, options: list[Option]) -> str:
    if not options:
        return "no single GPU would do, so choose a smaller model or shorter rows."
    is_open = isinstance(case.recipe.train, AutoAdapter)
    found = [f"{words}, {f'{plan.step.method.method}, ' if is_open else ''}{_figures(plan)}" for words, plan in options]
    return f"nearest plan that fits: {', or '.join(found)}."


def _figures(plan: Plan) -> str:
    recomputed = " with gradient checkpointing" if plan.gradient_checkpointing else ""
    return (
        f"micro-batch {plan.micro_batch_size} x {plan.accumulation_steps}{recomputed}, "
        f"{plan.peak_bytes / GIB:.1f} of {plan.budget_bytes / GIB:.1f} GiB"
    )


def _smallest(case: Case, hardware: Hardware) -> Way:
    return min(ways(case, hardware), key=lambda way: max(peaks(way.items).values()))


def _options(case: Case, hardware: Hardware, over: Excess, where: str) -> Iterator[Option]:
    """The smallest change that fits here, or else a smaller model; and the smallest machine that would do."""
    if changed := _changed(case, hardware, over, where):
        yield changed
    elif smaller := smaller_model(case, hardware):
        yield Option(f"{smaller[0]} {where}", smaller[1])
    if larger := _larger_machine(case, hardware, over):
        yield larger


def _changed(case: Case, hardware: Hardware, over: Excess, where: str) -> Option | None:
    for words, recipe in changes(case, hardware, over):
        if plan := first_fit(case._replace(recipe=recipe), hardware):
            return Option(f"{words} {where}", plan)
    return None


def _larger_machine(case: Case, hardware: Hardware, over: Excess) -> Option | None:
    """More host memory where that is what lacks, or where the recipe wants a CPU; else a larger card."""
    if over.phase == IN_CACHE:
        return None
    if "host memory" in over.phase or case.recipe.hardware.device == "cpu":
        return _more_memory(case, hardware)
    found = smallest_card(case, hardware)
    if found and case.recipe.hardware.memory_gib is not None:
        return found._replace(words=f"without hardware.memory_gib {found.words}")
    return found


def _more_memory(case: Case, hardware: Hardware) -> Option | None:
    """As much host memory as the most frugal plan needs, in whole GiB."""
    is_cpu = hardware.device == "cpu"
    needed = max(peaks(_smallest(case, hardware).items, "device" if is_cpu else "host").values())
    size = (int(needed / (1 - case.recipe.hardware.headroom)) // GIB + 1) * GIB
    devices = tuple(
        one.model_copy(update={"memory_bytes": size if is_cpu else one.memory_bytes}) for one in hardware.devices
    )
    plan = first_fit(case, hardware.model_copy(update={"ram_bytes": size, "devices": devices}))
    limit = " (hardware.memory_gib)" if is_cpu and case.recipe.hardware.memory_gib is not None else ""
    return Option(f"{size // GIB} GiB of host memory{limit}", plan) if plan else None


def _with_fewer_gpus(case: Case, hardware: Hardware) -> Option | None:
    """On the GPUs there are, where the recipe asks for more of them."""
    train, asked = case.recipe.train, case.recipe.hardware
    count = len(hardware.devices)
    used = 1 if case.recipe.parallel.strategy == "single" else count
    if hardware.device == "cpu" or train.batch_size % (used * (train.micro_batch_size or 1)):
        return None
    recipe = case.recipe.model_copy(update={"hardware": asked.model_copy(update={"gpus": count})})
    usable = hardware.model_copy(update={"devices": hardware.devices[:used]})
    plan = first_fit(case._replace(recipe=recipe), usable)
    return Option(f"hardware.gpus {count} on this machine", plan) if plan else None
