"""Is the bill right: the closed form beside the simulation, on models from 0.5 B to 70 B.

`python benchmarks/bill_grid.py [--only WORD] [--quick]` simulates every case in the train environment, one core, and
prints a Markdown table with the median and the worst error; it is written to benchmarks/results/bill_grid.md.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from tunesmith.environments import CHECKOUT, interpreter
from tunesmith.memory import catalogue
from tunesmith.memory.constants import GIB
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Step
from tunesmith.memory.training import moments, total

RESULT = Path(__file__).parent / "results/bill_grid.md"
SMALL = ("Qwen/Qwen2.5-0.5B", "meta-llama/Llama-3.2-1B", "Qwen/Qwen3-1.7B", "google/gemma-2-2b")
MIDDLE = ("Qwen/Qwen2.5-7B", "meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.1")
LARGE = ("meta-llama/Llama-2-13b-hf", "Qwen/Qwen2.5-32B", "meta-llama/Llama-3.1-70B")
MIXTURES = ("Qwen/Qwen3-30B-A3B", "mistralai/Mixtral-8x7B-v0.1", "deepseek-ai/DeepSeek-V3")

INNER = """
import json, sys, torch
from tunesmith.stages import lean
from tunesmith.memory.step import Step
from tunesmith.stages.simulate.record import record_step
from tunesmith.stages.simulate.report import peaks
torch.set_num_threads(1)
for line in sys.stdin:
    case = json.loads(line)
    recorded = record_step(case["config"], Step.model_validate(case["step"]), "cuda")
    found = peaks(recorded, ("forward_backward", "optimizer"))
    print(json.dumps({name: [p.allocated_bytes, p.owners] for name, p in found.items()}), flush=True)
"""


class Case(NamedTuple):
    """One training step to bill and to simulate."""

    repo: str
    method: str
    arithmetic: str = "amp"
    checkpointing: bool = True
    micro: int = 1
    length: int = 1024
    attention: str = "sdpa"
    optimizer: str = "adamw_fused"
    adapter: str = "fp32"
    rank: int = 16
    accumulates: bool = False
    targets: Any = "all-linear"

    @property
    def name(self) -> str:
        words = [
            self.repo.partition("/")[2],
            self.method,
            self.arithmetic,
            f"{self.micro} x {self.length}",
            self.attention,
        ]
        words += ["checkpointed"] * self.checkpointing + ["accumulating"] * self.accumulates
        words += [self.optimizer] * (self.optimizer != "adamw_fused") + ["bf16 adapter"] * (self.adapter == "bf16")
        words += [f"r={self.rank}"] * (self.rank != 16) + ["q, v only"] * (self.targets != "all-linear")
        return ", ".join(words)

    @property
    def step(self) -> Step:
        adapter = {"rank": self.rank, "targets": self.targets} if self.method != "full" else {}
        method = {"method": self.method, "max_steps": 1, "max_length": self.length, **adapter}
        return Step.model_validate(
            {
                "method": method, "arithmetic": self.arithmetic, "micro_batch_size": self.micro,
                "gradient_checkpointing": self.checkpointing, "accumulates": self.accumulates,
                "attention": self.attention, "optimizer": self.optimizer, "adapter_precision": self.adapter,
            }
        )  # fmt: skip


def cases() -> Iterator[Case]:
    """Every size with every method; and on some, every choice that changes the bill."""
    for repo in (*SMALL, *MIDDLE, *LARGE):
        for method in ("full", "lora", "qlora"):
            yield Case(repo, method)
    for repo in (*SMALL, *MIDDLE):
        yield Case(repo, "lora", "bf16", checkpointing=False, length=2048)
        yield Case(repo, "full", "bf16", checkpointing=False, micro=2, length=512)
        yield Case(repo, "qlora", micro=4, length=512, rank=64)
    for repo in MIXTURES:
        for method in ("full", "lora", "qlora"):
            yield Case(repo, method)
        yield Case(repo, "lora", "bf16", checkpointing=False, length=2048)
        yield Case(repo, "full", "bf16", checkpointing=False, micro=2, length=512)
        yield Case(repo, "lora", micro=4, attention="eager", length=512)
    for repo in ("Qwen/Qwen2.5-7B", "meta-llama/Llama-3.2-1B"):
        yield Case(repo, "lora", attention="flash", micro=4)
        yield Case(repo, "lora", attention="eager", length=512)
        yield Case(repo, "lora", attention="eager", length=512, checkpointing=False, micro=2)
        yield Case(repo, "full", "bf16", optimizer="adamw_foreach")
        yield Case(repo, "full", "bf16", optimizer="adamw_8bit")
        yield Case(repo, "full", accumulates=True, checkpointing=False)
        yield Case(repo, "lora", adapter="bf16", arithmetic="bf16")
        yield Case(repo, "lora", targets=["q_proj", "v_proj"], rank=8, micro=2)
        yield Case(repo, "qlora", checkpointing=False, attention="flash", micro=2)
        yield Case(repo, "full", "fp32", length=512)


def simulated(chosen: list[Case]) -> Iterator[dict[str, Any]]:
    """Peaks by phase, one case after the other."""
    asked = [{"config": catalogue.lookup(case.repo), "step": case.step.model_dump(mode="json")} for case in chosen]
    return answers(INNER, asked)


def answers(script: str, questions: list[dict[str, Any]]) -> Iterator[Any]:
    """What a script in the train environment says to each question, a line of JSON for a line of JSON; what it said
    before is remembered until the code or a package changes.
    """
    remembered = Path(tempfile.gettempdir()) / f"tunesmith-answers-{_code_digest(script)}"
    remembered.mkdir(exist_ok=True)
    with _asking(script) as ask:
        for question in questions:
            line = json.dumps(question)
            path = remembered / hashlib.sha256(line.encode()).hexdigest()
            if not path.exists():
                path.write_text(ask(line))
            yield json.loads(path.read_text())


def _code_digest(script: str) -> str:
    """Of the script, of what a simulation is made of, and of the packages it runs on."""
    parts = [*sorted((CHECKOUT / "tunesmith/stages").rglob("*.py")), *sorted((CHECKOUT / "locks").glob("*"))]
    parts += [CHECKOUT / "tunesmith/memory" / name for name in ("allocator.py", "segments.py", "expandable.py")]
    content = b"".join(path.read_bytes() for path in parts if path.is_file())
    return hashlib.sha256(script.encode() + content).hexdigest()[:16]


@contextmanager
def _asking(script: str) -> Iterator[Callable[[str], str]]:
    """A process that is started with the first question."""
    running: list[subprocess.Popen[str]] = []

    def ask(line: str) -> str:
        if not running:
            command = [str(interpreter("train")), "-c", script]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
            pipe = subprocess.PIPE
            running.append(subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdin=pipe, stdout=pipe, text=True))
        print(line, file=running[0].stdin, flush=True)
        assert running[0].stdout
        return running[0].stdout.readline()

    try:
        yield ask
    finally:
        for process in running:
            process.communicate()


def billed(case: Case) -> tuple[int, str]:
    """The bill's peak, and the moment it has it."""
    config = catalogue.lookup(case.repo)
    assert config is not None
    found = {name: total(items) for name, items in moments(ModelShape.from_config(config), case.step).items()}
    fullest = max(found, key=lambda name: found[name])
    return found[fullest], fullest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--owners", action="store_true")
    asked = parser.parse_args()
    chosen = [case for case in cases() if asked.only in case.name]
    lines = ["| case | bill, GiB | simulation, GiB | error % | fullest |", "| --- | ---: | ---: | ---: | --- |"]
    errors = []
    print("\n".join(lines))
    for case, found in zip(chosen, simulated(chosen), strict=True):
        truth = max(size for size, _ in found.values())
        bill, moment = billed(case)
        errors.append(100 * (bill / truth - 1))
        lines.append(f"| {case.name} | {bill / GIB:.3f} | {truth / GIB:.3f} | {errors[-1]:+.2f} | {moment} |")
        print(lines[-1], flush=True)
        if asked.owners:
            show(case, found)
    worst = max(errors, key=abs)
    lines.append(f"\n{len(errors)} cases: median of |error| {median(map(abs, errors)):.2f} %, worst {worst:+.2f} %.")
    print(lines[-1])
    if not asked.only:
        RESULT.write_text("\n".join(lines) + "\n")


def show(case: Case, found: dict[str, Any]) -> None:
    """Both sides, item by item."""
    config = catalogue.lookup(case.repo)
    for name, items in moments(ModelShape.from_config(config or {}), case.step).items():
        print(
            "   bill",
            name,
            {key: round(size / GIB, 3) for key, size in items.items() if size},
            round(total(items) / GIB, 3),
        )
    for name, (size, owners) in found.items():
        print(
            "   sim ",
            name,
            round(size / GIB, 3),
            {key: round(value / GIB, 3) for key, value in list(owners.items())[:9]},
        )


if __name__ == "__main__":
    main()
