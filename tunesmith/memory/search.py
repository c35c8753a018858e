"""Every way to run a recipe, fastest first.

A layout's cost per optimizer step, relative: a pass over T tokens reaches T / (T + T0) of the device's speed, and
recomputing activations adds 30 %. So the plan takes the largest micro-batch without gradient checkpointing that fits;
then smaller ones; and checkpointing as soon as the micro-batches without it would be slower than one with it.
"""

from collections.abc import Iterator

from tunesmith.artifacts import BillItem, Hardware, Plan
from tunesmith.memory.bill import Case, Layout, bill, disk_bytes, max_model_len, peaks
from tunesmith.memory.constants import GIB
from tunesmith.specs.spec import fingerprint
from tunesmith.specs.train import Full, TrainSpec

_HALF_SPEED_TOKENS = {"cuda": 256, "cpu": 32}
"""T0: tokens per pass at which a device reaches half its speed; a rule of thumb."""
_RECOMPUTE = 1.3
"""Gradient checkpointing: 20 to 30 % more time (arXiv 1604.06174: one more forward pass)."""


def first_fit(case: Case, hardware: Hardware) -> Plan | None:
    """The fastest plan that fits, None when none does."""
    return next((plan for plan in plans(case, hardware) if excess(plan, case, hardware) is None), None)


def plans(case: Case, hardware: Hardware) -> Iterator[Plan]:
    """Every plan there is, fastest first, fitting or not."""
    rows = _evaluation_rows(case, hardware)
    for layout in sorted(_layouts(case, hardware, rows), key=lambda layout: _cost(case, layout)):
        yield _plan(case, layout, hardware)


def excess(plan: Plan, case: Case, hardware: Hardware) -> tuple[str, int, int] | None:
    """None when the plan fits, else the phase that exceeds most, its bytes, and what it may use."""
    host_budget = int(hardware.ram_bytes * (1 - case.recipe.hardware.headroom))
    over = [(phase, size, plan.budget_bytes) for phase, size in peaks(plan.bill).items()]
    over += [(f"{phase} (host memory)", size, host_budget) for phase, size in peaks(plan.bill, "host").items()]
    over = [one for one in over if one[1] > one[2]]
    return max(over, key=lambda one: one[1] - one[2], default=None)


def budget_bytes(case: Case, hardware: Hardware) -> int:
    """What the smallest device has, less the headroom."""
    smallest = min(device.memory_bytes for device in hardware.devices)
    return int(smallest * (1 - case.recipe.hardware.headroom))


def method_name(train: TrainSpec) -> str:
    """`qlora r=64`, `full fine-tuning`."""
    rank = getattr(train, "rank", None)
    return f"{getattr(train, 'method', '')} r={rank}" if rank else "full fine-tuning"


def _layouts(case: Case, hardware: Hardware, evaluation_rows: int) -> Iterator[Layout]:
    train = case.recipe.train
    checkpointing = {"auto": (False, True), "on": (True,), "off": (False,)}[train.gradient_checkpointing]
    sizes = [train.micro_batch_size] if train.micro_batch_size else range(train.batch_size, 0, -1)
    for micro in sizes:
        if train.batch_size % micro == 0:
            for recomputed in checkpointing:
                yield Layout(hardware.device, micro, train.batch_size // micro, recomputed, evaluation_rows)


def _cost(case: Case, layout: Layout) -> float:
    tokens = layout.micro_batch_size * case.recipe.train.max_length
    slowness = 1 + _HALF_SPEED_TOKENS[layout.device] / tokens
    return slowness * (_RECOMPUTE if layout.gradient_checkpointing else 1)


def _evaluation_rows(case: Case, hardware: Hardware) -> int:
    """The evaluation's batch; on a GPU, where it halves a batch that does not fit, the half that does."""
    rows, budget = case.recipe.evaluate.batch_size, budget_bytes(case, hardware)
    if hardware.device == "cpu":
        return rows
    while rows > 1 and peaks(bill(case, Layout("cuda", 1, 1, True, rows)))["evaluate"] > budget:
        rows //= 2
    return rows


def _plan(case: Case, layout: Layout, hardware: Hardware) -> Plan:
    items, budget = bill(case, layout), budget_bytes(case, hardware)
    return Plan(
        fingerprint=_fingerprint(case, hardware),
        device=layout.device,
        precision="fp32" if layout.device == "cpu" else "bf16",
        micro_batch_size=layout.micro_batch_size,
        accumulation_steps=layout.accumulation_steps,
        gradient_checkpointing=layout.gradient_checkpointing,
        peak_bytes=max(peaks(items).values()),
        budget_bytes=budget,
        bill=items,
        disk_bytes=disk_bytes(case),
        summary=_summary(case, layout, items, budget),
    )


def _summary(case: Case, layout: Layout, items: tuple[BillItem, ...], budget: int) -> str:
    """The decision in one line, with its numbers."""
    found = peaks(items)
    fullest = max(found, key=lambda phase: found[phase])
    elsewhere = "" if fullest == "train" else f" (fullest: {fullest}, {found[fullest] / GIB:.1f})"
    parts = [
        f"{case.shape.params / 1e9:.2f} B params",
        _precision(case, layout),
        *([] if isinstance(case.recipe.train, Full) else [f"r={case.recipe.train.rank}"]),
        f"micro-batch {layout.micro_batch_size} x {layout.accumulation_steps}",
        *(["gradient checkpointing"] if layout.gradient_checkpointing else []),
        *([case.shape.note] if case.shape.note else []),
    ]
    return f"train: {', '.join(parts)} -> {found['train'] / GIB:.1f} of {budget / GIB:.1f} GiB{elsewhere}"


def _precision(case: Case, layout: Layout) -> str:
    if case.recipe.train.method == "qlora":
        return "nf4"
    return "fp32" if layout.device == "cpu" or isinstance(case.recipe.train, Full) else "bf16"


def _fingerprint(case: Case, hardware: Hardware) -> str:
    recipe = case.recipe
    serving = (max_model_len(recipe), recipe.serve.kv_cache_gib)
    return fingerprint(
        "plan", recipe.train, recipe.quantize, recipe.evaluate, serving, recipe.hardware, case.source, hardware
    )
