"""The plan: the first rung of the ladder that fits, and on it the fastest way.

A step's cost, relative: a pass over T tokens reaches T / (T + T0) of the device's speed, and recomputing activations
adds 30 %. So a rung's ways are tried from the largest micro-batch without gradient checkpointing down; checkpointing
comes as soon as the micro-batches without it would be slower than one with it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tunesmith.artifacts import Hardware, Plan
from tunesmith.memory.bill import Case, DeviceKind, Layout, bill, disk_items, max_model_len, peaks
from tunesmith.memory.constants import GIB
from tunesmith.memory.kv_cache import kv_bytes
from tunesmith.memory.ladder import rungs, steps
from tunesmith.memory.parallel import transfer_seconds
from tunesmith.memory.said import BillItem, Rejected
from tunesmith.memory.serving import cache_room, server_share
from tunesmith.memory.summary import summarize
from tunesmith.memory.training import states
from tunesmith.specs.spec import fingerprint
from tunesmith.specs.train import TrainSpec

_HALF_SPEED_TOKENS: dict[DeviceKind, int] = {"cuda": 256, "cpu": 32}
"""T0: tokens per pass at which a device reaches half its speed; a rule of thumb."""
_RECOMPUTE = 1.3
"""Gradient checkpointing: 20 to 30 % more time (arXiv 1604.06174: one more forward pass)."""


IN_CACHE = "serve (KV cache)"
"""The phase in which a server on a CPU has no room for one sequence in its cache."""


class Way(NamedTuple):
    """One way to run a recipe, billed."""

    rung: str
    layout: Layout
    items: tuple[BillItem, ...]

    @property
    def words(self) -> str:
        """The rung and what of it was open."""
        recomputed = ", gradient checkpointing" if self.layout.step.gradient_checkpointing else ""
        micro, steps = self.layout.step.micro_batch_size, self.layout.accumulation_steps
        return f"{self.rung}: micro-batch {micro} x {steps}{recomputed}"


class Excess(NamedTuple):
    """The phase that exceeds most."""

    phase: str
    needed_bytes: int
    allowed_bytes: int


def first_fit(case: Case, hardware: Hardware) -> Plan | None:
    """The fastest plan of the first rung that has one; None when nothing fits."""
    rejected: dict[str, Rejected] = {}
    for way in ways(case, hardware):
        over = excess(way.items, case, hardware)
        if over is None:
            return settle(way, case, hardware, tuple(rejected.values()))
        _note(rejected, way, over)
    return None


def ways(case: Case, hardware: Hardware) -> Iterator[Way]:
    """Every way there is, rung by rung, fastest first on each; fitting or not."""
    rows = evaluation_rows(case, hardware)
    for rung in rungs(case, hardware):
        laid = [Layout(hardware.device, step, count, rows) for step, count in steps(rung, case, hardware.device)]
        for layout in sorted(laid, key=cost):
            yield Way(rung.name, layout, bill(case, layout))


def excess(items: tuple[BillItem, ...], case: Case, hardware: Hardware) -> Excess | None:
    """None when the bill is within the budget, else the phase that exceeds it most.

    The server must find its weights and one full sequence in its own share of the device, on a CPU in its own cache.
    """
    found = [
        *(Excess(phase, size, _allowed(phase, case, hardware)) for phase, size in peaks(items).items()),
        *(
            Excess(f"{phase} (host memory)", size, int(hardware.ram_bytes * (1 - case.recipe.hardware.headroom)))
            for phase, size in peaks(items, "host").items()
        ),
        *_in_cache(case, hardware),
    ]
    over = [one for one in found if one.needed_bytes > one.allowed_bytes]
    return max(over, key=lambda one: one.needed_bytes - one.allowed_bytes, default=None)


def budget_bytes(case: Case, hardware: Hardware) -> int:
    """What the smallest device has, less the headroom."""
    smallest = min(device.memory_bytes for device in hardware.devices)
    return int(smallest * (1 - case.recipe.hardware.headroom))


def method_name(train: TrainSpec) -> str:
    """`qlora r=64`, `full fine-tuning`."""
    rank = getattr(train, "rank", None)
    return f"{getattr(train, 'method', '')} r={rank}" if rank else "full fine-tuning"


def cost(layout: Layout) -> float:
    """Relative time of a step."""
    slowness = 1 + _HALF_SPEED_TOKENS[layout.device] / layout.step.tokens
    return slowness * (_RECOMPUTE if layout.step.gradient_checkpointing else 1)


def evaluation_rows(case: Case, hardware: Hardware) -> int:
    """The evaluation's batch; on a GPU, where it halves a batch that does not fit, the half that does."""
    rows, budget = case.recipe.evaluate.batch_size, budget_bytes(case, hardware)
    if hardware.device == "cpu":
        return rows
    step, _ = next(steps(next(rungs(case, hardware)), case, "cuda"))
    while rows > 1 and peaks(bill(case, Layout("cuda", step, 1, rows)))["evaluate"] > budget:
        rows //= 2
    return rows


def settle(way: Way, case: Case, hardware: Hardware, rejected: tuple[Rejected, ...] = ()) -> Plan:
    """The way as a plan."""
    step, items, budget = way.layout.step, way.items, budget_bytes(case, hardware)
    seconds = transfer_seconds(
        step.parallel, states(case.shape, step), way.layout.accumulation_steps, step.gradient_checkpointing
    )
    room = cache_room(
        case.shape, case.recipe.quantize, case.recipe.serve, max_model_len(case.recipe),
        hardware.devices[0].memory_bytes, way.layout.device,
    )  # fmt: skip
    return Plan(
        fingerprint=_fingerprint(case, hardware),
        device=way.layout.device,
        step=step,
        accumulation_steps=way.layout.accumulation_steps,
        evaluation_rows=way.layout.evaluation_rows,
        low_bytes=max(peaks(items, slack=False).values()),
        peak_bytes=max(peaks(items).values()),
        budget_bytes=budget,
        bill=items,
        disk_bytes=sum(disk_items(case).values()),
        disk=disk_items(case),
        summary=summarize(case, way.layout, items, budget, seconds),
        rejected=rejected,
        transfer_seconds=seconds,
        kv_tokens=room.tokens,
        max_sequences=room.sequences,
    )


def _allowed(phase: str, case: Case, hardware: Hardware) -> int:
    budget = budget_bytes(case, hardware)
    if phase != "serve":
        return budget
    smallest = min(device.memory_bytes for device in hardware.devices)
    return min(budget, server_share(case.recipe.serve, smallest, hardware.device))


def _in_cache(case: Case, hardware: Hardware) -> Iterator[Excess]:
    """One full sequence in the cache of a server on a CPU, whose size the recipe says; on a GPU it is in the bill."""
    if hardware.device == "cpu":
        needed = kv_bytes(case.shape, max_model_len(case.recipe))
        yield Excess(IN_CACHE, needed, case.recipe.serve.kv_cache_gib * GIB)


def _note(rejected: dict[str, Rejected], way: Way, over: Excess) -> None:
    """Keeps the most frugal way of each rung, with and without checkpointing."""
    key = f"{way.rung}{way.layout.step.gradient_checkpointing}"
    before = rejected.get(key)
    if before is None or over.needed_bytes < before.high_bytes:
        why = f"{over.phase} needs {over.needed_bytes / GIB:.1f} GiB and may use {over.allowed_bytes / GIB:.1f}"
        rejected[key] = Rejected(plan=way.words, high_bytes=over.needed_bytes, why=why)


def _fingerprint(case: Case, hardware: Hardware) -> str:
    recipe = case.recipe
    serving = (max_model_len(recipe), recipe.serve.kv_cache_gib)
    simulated = () if case.findings.known == () and case.unsimulated is None else (case.findings, case.unsimulated)
    return fingerprint(
        "plan", recipe.train, recipe.parallel, recipe.quantize, recipe.evaluate, serving, recipe.hardware,
        case.source, hardware, *simulated,
    )  # fmt: skip
