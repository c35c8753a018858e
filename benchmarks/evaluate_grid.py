"""Is the evaluation's bill right: the closed form beside the simulation, on models from 0.5 B to 70 B.

`python benchmarks/evaluate_grid.py [--only WORD] [--owners]` simulates every batch in the train environment, one core,
and prints a Markdown table with the median and the worst error; the whole of it is written to
benchmarks/results/evaluate_grid.md.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bill_grid import MIDDLE, MIXTURES, SMALL, answers
from tunesmith.memory import catalogue
from tunesmith.memory.constants import GIB
from tunesmith.memory.evaluation import Batch, judged_on, moments
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Step
from tunesmith.memory.training import total

RESULT = Path(__file__).parent / "results/evaluate_grid.md"
LARGE = ("Qwen/Qwen2.5-32B", "meta-llama/Llama-3.1-70B")
ROWS = (1, 8, 32)
LENGTHS = (256, 1024, 4096)
ANSWER_TOKENS = 128

INNER = """
import json, sys, torch
from tunesmith.stages import lean
from tunesmith.memory.step import Step
from tunesmith.stages.simulate.record import record_evaluations
from tunesmith.stages.simulate.report import peaks
torch.set_num_threads(1)
for line in sys.stdin:
    case = json.loads(line)
    step = Step.model_validate(case.pop("step"))
    found = [peaks(one, ("evaluate",))["evaluate"] for one in record_evaluations(step=step, **case)]
    fullest = max(found, key=lambda peak: peak.allocated_bytes)
    print(json.dumps([fullest.allocated_bytes, fullest.owners]), flush=True)
"""


class Case(NamedTuple):
    """One batch to bill and to simulate."""

    repo: str
    method: str
    rows: int
    length: int
    device: Literal["cuda", "cpu"] = "cuda"

    @property
    def name(self) -> str:
        words = [self.repo.partition("/")[2], f"{self.rows} x {self.length} + {ANSWER_TOKENS}"]
        return ", ".join(words + (["a CPU's kernels"] if self.device == "cpu" else [self.method]))

    @property
    def step(self) -> Step:
        """The training step before it."""
        arithmetic = "fp32" if self.device == "cpu" else "amp"
        return Step.model_validate(
            {
                "method": {"method": self.method, "max_steps": 1, "max_length": self.length},
                "arithmetic": arithmetic, "micro_batch_size": 1, "gradient_checkpointing": True, "accumulates": False,
            }
        )  # fmt: skip

    @property
    def question(self) -> dict[str, Any]:
        return {
            "config": catalogue.lookup(self.repo), "step": self.step.model_dump(mode="json"),
            "kernels": self.device, "rows": self.rows, "tokens": self.length + ANSWER_TOKENS,
        }  # fmt: skip


def cases() -> Iterator[Case]:
    """Every dense model with every batch beside an adapter; and on some, the packed base, no adapter, and a CPU."""
    for repo in (*SMALL, *MIDDLE, *LARGE):
        yield from (Case(repo, "lora", rows, length) for rows in ROWS for length in LENGTHS)
        yield from (Case(repo, "qlora", rows, length) for rows, length in ((1, 256), (8, 1024), (32, 4096)))
        yield from (Case(repo, "full", rows, length) for rows, length in ((1, 4096), (8, 1024), (32, 256)))
    for repo in SMALL:
        yield from (Case(repo, "full", rows, length, "cpu") for rows in ROWS for length in LENGTHS)
    for repo in MIXTURES:
        yield from (Case(repo, "lora", rows, length) for rows, length in ((1, 256), (8, 1024), (32, 4096)))


def simulated(chosen: list[Case]) -> Iterator[tuple[int, dict[str, int]]]:
    """What tensors take at the fullest moment of the fullest judged model, in all and by owner, case after case."""
    yield from answers(INNER, [case.question for case in chosen])


def billed(case: Case) -> dict[str, dict[str, int]]:
    """The bill's items by moment, of the judged model that has the fullest one."""
    shape = ModelShape.from_config(catalogue.lookup(case.repo) or {})
    batch = Batch(case.rows, case.length, ANSWER_TOKENS)
    found = (moments(shape, judged, batch) for judged in judged_on(case.device, shape, case.step))
    return max(found, key=lambda one: max(map(total, one.values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--owners", action="store_true")
    asked = parser.parse_args()
    chosen = [case for case in cases() if asked.only in case.name]
    lines = ["| batch | bill, GiB | simulation, GiB | error % | fullest |", "| --- | ---: | ---: | ---: | --- |"]
    errors = []
    print("\n".join(lines))
    for case, (truth, owners) in zip(chosen, simulated(chosen), strict=True):
        found = billed(case)
        moment = max(found, key=lambda name: total(found[name]))
        bill = total(found[moment])
        errors.append(100 * (bill / truth - 1))
        lines.append(f"| {case.name} | {bill / GIB:.3f} | {truth / GIB:.3f} | {errors[-1]:+.3f} | {moment} |")
        print(lines[-1], flush=True)
        if asked.owners:
            print("   bill", _in_gib(found[moment]), "\n   sim ", _in_gib(owners))
    worst = max(errors, key=abs)
    lines.append(f"\n{len(errors)} batches: median of |error| {median(map(abs, errors)):.3f} %, worst {worst:+.3f} %.")
    print(lines[-1])
    if not asked.only:
        RESULT.write_text("\n".join(lines) + "\n")


def _in_gib(sizes: dict[str, int]) -> dict[str, float]:
    return {name: round(size / GIB, 3) for name, size in sizes.items() if size}


if __name__ == "__main__":
    main()
