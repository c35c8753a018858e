"""How long an estimate takes: `python benchmarks/estimate_speed.py [--simulate]` prints a Markdown table.

One bill after import, a search over every rung of the ladder, the whole command without torch; with --simulate also the
simulation of Qwen2.5-7B, full and QLoRA, with its peak resident memory.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from runs import CHECKOUT, machine

from tunesmith.errors import DoesNotFit
from tunesmith.forecast import estimate
from tunesmith.memory.plan import make_case
from tunesmith.memory.search import ways
from tunesmith.question import Machine, Question, pose

MODEL = "Qwen/Qwen2.5-7B-Instruct"
COMMAND = [str(Path(sys.executable).parent / "tunesmith"), "estimate", MODEL, "--gpu", "RTX4090", "--json"]
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulate", action="store_true")
    os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
    print(f"{MODEL} on {machine()}\n\n| what | asked | took |\n| --- | ---: | ---: |")
    question = pose(MODEL, {"train.method": "qlora"}, Machine(gpus=8, memory_gib=80))
    print(f"| one bill | 20 ms | {1000 * timed(lambda: next(bills(question))):.1f} ms |")
    print(f"| every rung, nothing fits | 1 s | {timed(search_all):.2f} s |")
    print(f"| the whole command | 1.5 s | {timed(whole_command, 5):.2f} s |")
    if parser.parse_args().simulate:
        for method in ("full", "qlora"):
            seconds, gib = simulation(method)
            print(f"| simulation, {method}, 1 x 2048 tokens | 30 s, 1 GB | {seconds:.1f} s, {gib:.2f} GiB |")


def timed(work: Callable[[], Any], times: int = 9) -> float:
    """Median seconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return median(taken)


def bills(question: Question) -> Any:
    assert question.machine
    return ways(make_case(question.recipe, question.source), question.machine)


def search_all() -> None:
    """A job that fits nowhere: all rungs, then all that a refusal proposes."""
    settings = {"train.method": "full", "train.max_length": 200_000, "train.batch_size": 64}
    try:
        estimate(pose(MODEL, settings, Machine(gpus=4, memory_gib=8)))
    except DoesNotFit:
        return
    sys.exit("it was not expected to fit")


def whole_command() -> None:
    subprocess.run(COMMAND, env=OFFLINE, cwd=CHECKOUT, check=True, capture_output=True)


def simulation(method: str) -> tuple[float, float]:
    """Wall seconds of the whole command, and GiB at the peak of its largest process, on one core."""
    settings = [
        "--set",
        f"train.method={method}",
        "--set",
        "train.max_length=2048",
        "--set",
        "train.micro_batch_size=1",
    ]
    on = [word for word in COMMAND if word not in ("--gpu", "RTX4090")] + ["--gpu-memory", "1000", "--simulate"]
    with tempfile.TemporaryDirectory() as store:
        began = time.perf_counter()
        command = ["taskset", "-c", "0", *on, *settings, "--store", store]
        subprocess.run(command, env=OFFLINE, cwd=CHECKOUT, check=True, capture_output=True)
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
