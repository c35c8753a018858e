"""How much the allocator reserves beyond tensors: the bill's share beside replays of simulated steps.

`python benchmarks/slack.py [--only WORD]` simulates every step in the train environment, one core, replays what it
allocated, and prints Markdown tables; the whole of it is written to benchmarks/results/slack.md. Replays are of both
ways in which PyTorch's allocator works, and of the least memory in which expandable segments still get by.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bill_grid import Case, answers
from tunesmith.memory import catalogue
from tunesmith.memory.constants import GIB
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.slack import step_slack
from tunesmith.memory.step import Loss, Step
from tunesmith.memory.training import moments, total

RESULT = Path(__file__).parent / "results/slack.md"
SMALL = ("HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen2.5-0.5B", "meta-llama/Llama-3.2-1B")
MIDDLE = ("Qwen/Qwen2.5-7B", "meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.1")
OTHER = ("Qwen/Qwen3-1.7B", "HuggingFaceTB/SmolLM2-1.7B", "microsoft/Phi-3-mini-4k-instruct")
"""Of no part in what the shares were chosen by."""
BATCHES = ((1, 256), (8, 256), (4, 512), (1, 2048), (2, 1024), (1, 4096), (8, 1024))
"""Rows and tokens."""
METHODS = ("full", "lora", "qlora")
CONSTANT, CONSTANT_NF4 = 0.04, 0.10
"""Shares of all tensors, for comparison: what every job was billed once."""

INNER = """
import json, sys, torch
from tunesmith.stages import lean
from tunesmith.errors import OutOfMemory
from tunesmith.memory.allocator import replay
from tunesmith.memory.step import Step
from tunesmith.stages.simulate.record import record_step
from tunesmith.stages.simulate.report import peaks

def fits(stream, limit):
    try:
        return bool(replay(stream, expandable=True, limit_bytes=limit))
    except OutOfMemory:
        return False

def least(stream, low, high):
    while high - low > 0.005 * low:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(stream, middle) else (middle, high)
    return high

torch.set_num_threads(1)
for line in sys.stdin:
    case = json.loads(line)
    stream = record_step(case["config"], Step.model_validate(case["step"]), "cuda")
    found = peaks(stream, ("forward_backward", "optimizer")).values()
    allocated, native, expandable = (
        max(getattr(peak, name) for peak in found)
        for name in ("allocated_bytes", "reserved_native_bytes", "reserved_expandable_bytes")
    )
    print(json.dumps([allocated, native, expandable, least(stream.stream, allocated, expandable)]), flush=True)
"""


class Stepped(NamedTuple):
    """One training step."""

    case: Case
    loss: Loss = "full"

    @property
    def name(self) -> str:
        return self.case.name + ", loss in pieces" * (self.loss == "chunked")

    @property
    def step(self) -> Step:
        return self.case.step.model_copy(update={"loss": self.loss})


class Replayed(NamedTuple):
    """Bytes of one step."""

    allocated: int
    native: int
    """Reserved without expandable segments."""
    expandable: int
    """Reserved with them."""
    least: int
    """Of a device on which it still runs; the first step too, so it may be more than is reserved later."""


class Row(NamedTuple):
    stepped: Stepped
    billed: int
    """Tensors, by the bill."""
    slack: int
    found: Replayed

    @property
    def share(self) -> float:
        """What is reserved beyond tensors, in percent of them."""
        return 100 * (self.found.expandable / self.found.allocated - 1)

    @property
    def error(self) -> float:
        """Of what is billed as reserved, in percent of what is."""
        return 100 * ((self.billed + self.slack) / self.found.expandable - 1)

    @property
    def constant_error(self) -> float:
        """The same with a constant share."""
        share = CONSTANT_NF4 if self.stepped.step.is_nf4 else CONSTANT
        return 100 * (self.billed * (1 + share) / self.found.expandable - 1)


def cases() -> Iterator[Stepped]:
    """Every method, checkpointed or not, with gradients that accumulate or not, in batches of all sizes in turn."""
    batches = cycle(BATCHES)
    for repo in SMALL:
        for method in METHODS:
            for number in range(8):
                micro, length = next(batches)
                arithmetic = "bf16" if method != "qlora" and number % 3 == 2 else "amp"
                how = {"checkpointing": number % 2 == 0, "accumulates": number % 4 > 1, "rank": (8, 16, 64)[number % 3]}
                yield Stepped(Case(repo, method, arithmetic, micro=micro, length=length, **how))
            yield Stepped(Case(repo, method, micro=4), "chunked")
            yield Stepped(Case(repo, method, micro=4, accumulates=True, checkpointing=False), "chunked")
        for optimizer in ("adamw_foreach", "adamw_8bit", "paged_adamw_8bit"):
            yield Stepped(Case(repo, "full", micro=2, optimizer=optimizer))
    for repo in (*MIDDLE, *OTHER):
        for method in METHODS:
            micro, length = next(batches)
            yield Stepped(Case(repo, method, micro=micro, length=length, accumulates=True))
        yield Stepped(Case(repo, "qlora", micro=4, length=2048), "chunked")
        yield Stepped(Case(repo, "lora", checkpointing=False, length=2048))
        yield Stepped(Case(repo, "full", "bf16", micro=2, length=2048))


def rows(chosen: Sequence[Stepped]) -> Iterator[Row]:
    asked = [
        {"config": catalogue.lookup(one.case.repo), "step": one.step.model_dump(mode="json")} for one in chosen
    ]  # fmt: skip
    for stepped, answer in zip(chosen, answers(INNER, asked), strict=True):
        shape = ModelShape.from_config(catalogue.lookup(stepped.case.repo) or {})
        found = moments(shape, stepped.step)
        billed = max(total(items) for items in found.values())
        yield Row(stepped, billed, step_slack(shape, stepped.step, found), Replayed(*answer))


def line(row: Row) -> str:
    tensors, native, _, least = (size / row.found.allocated for size in row.found)
    cells = [f"{100 * (native - 1):+.1f}", f"{row.share:+.1f}", f"{100 * (least - tensors):+.1f}"]
    cells += [f"{100 * row.slack / row.billed:+.1f}", f"{row.error:+.1f}", f"{row.constant_error:+.1f}"]
    return f"| {row.stepped.name} | {row.found.allocated / GIB:.2f} | {' | '.join(cells)} |"


HEAD = (
    "| step | tensors, GiB | native segments % | expandable % | at least % | billed % "
    "| error of the reserve % | with a constant share % |\n| --- |" + " ---: |" * 7
)
PREFACE = """\
Reserved beyond tensors, in percent of them: as replayed, and as billed. "At least" is the memory in which the step
still runs, free pages being given back before it fails, to half a percent. The errors are of what is billed as reserved
in expandable segments, tensors and all; + is too much. The constant share is 4 %, with NF4 10 %.\
"""


def summary(found: Sequence[Row]) -> Iterator[str]:
    yield "\n| steps | of them | too little | median error % | worst % | constant: too little | median % | worst % |"
    yield "| --- |" + " ---: |" * 7
    groups = {
        "all": found,
        "checkpointed": [row for row in found if row.stepped.case.checkpointing],
        "not checkpointed": [row for row in found if not row.stepped.case.checkpointing],
        **{method: [row for row in found if row.stepped.case.method == method] for method in METHODS},
        "loss in pieces": [row for row in found if row.stepped.loss == "chunked"],
        "models the shares were not chosen by": [row for row in found if row.stepped.case.repo in OTHER],
    }
    for name, members in groups.items():
        if members:
            cells = [*_of([row.error for row in members]), *_of([row.constant_error for row in members])]
            yield f"| {name} | {len(members)} | {' | '.join(cells)} |"


def _of(errors: Sequence[float]) -> list[str]:
    worst = f"{min(errors):+.1f}, {max(errors):+.1f}"
    return [str(sum(error < 0 for error in errors)), f"{median(errors):+.1f}", worst]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    only = parser.parse_args().only
    found: list[Row] = []
    print(HEAD)
    for row in rows([one for one in cases() if only in one.name]):
        found.append(row)
        print(line(row), flush=True)
    ends = [*summary(found)]
    print("\n".join(ends))
    if not only:
        RESULT.write_text("\n".join([PREFACE, *ends, "", HEAD, *map(line, found)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
