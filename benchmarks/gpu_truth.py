"""Are the bill and the simulation right on a GPU: real steps of up to 8 B weights beside both, and the constants.

`python benchmarks/gpu_truth.py [--only WORD] [--limit-gib N] [--out FOLDER]`, on a machine with an NVIDIA GPU that no
other program uses, takes two steps of every case as the train stage does, each in a process of its own in the train
environment, with the allocator set as `tunesmith.runner` sets it, and reads torch's and the driver's figures off the
second. The same steps are simulated on the machine's cores meanwhile. A Markdown table goes to standard output, and,
after every case anew, with the raw rows to benchmarks/results/gpu_truth.md and .json, or FOLDER. Cases that the bill
says do not fit are skipped; one that fails leaves its reason. On an H100 it is meant to take under eight minutes.

`--device cpu` rehearses the small cases on a machine without a GPU, beside the simulation with a CPU's kernels; that
and `--only` write files only where `--out` says.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu_cases import CASES, Figures, GpuCase, Phases, fitting
from benchmarks.gpu_report import Report, Row, markdown
from tunesmith import runner
from tunesmith.environments import CHECKOUT, interpreter
from tunesmith.errors import TunesmithError
from tunesmith.hardware import detect
from tunesmith.memory.constants import GIB

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STEPS, CONSTANTS = str(HERE / "gpu_steps.py"), str(HERE / "gpu_constants.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
OFF_THE_GPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
"""So that a simulation takes nothing of the card that is being measured."""
_SECONDS = 400
"""A process that takes longer is given up."""


class Failed(Exception):
    """A process that gave no answer; says why in a line."""


class Asked(NamedTuple):
    """What the command line says."""

    device: str = "cuda"
    only: str = ""
    limit_gib: float | None = None
    jobs: int = max(1, (os.cpu_count() or 2) // 2)
    """Simulations at once."""


def main() -> None:
    asked, out = _command_line()
    try:
        for report in compare(asked):
            if out:
                write(report, out)
    except (Failed, TunesmithError) as failure:
        sys.exit(str(failure))
    print(markdown(report), end="")


def _command_line() -> tuple[Asked, Path | None]:
    """With the folder to write to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default=Asked().device)
    parser.add_argument("--only", default="", metavar="WORD", help="only cases with this in their name")
    parser.add_argument("--limit-gib", type=float, help="skip what is billed more; default: the card's memory")
    parser.add_argument("--jobs", type=int, default=Asked().jobs, help="simulations at once")
    parser.add_argument("--out", type=Path, help="folder for gpu_truth.md and gpu_truth.json")
    given = vars(parser.parse_args())
    out = given.pop("out")
    asked = Asked(**given)
    return asked, out or (RESULTS if asked.device == "cuda" and not asked.only else None)


def write(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_truth.md").write_text(markdown(report))
    (folder / "gpu_truth.json").write_text(json.dumps(report.document, indent=1) + "\n")


def compare(asked: Asked) -> Iterator[Report]:
    """The report after every case, the last one whole.

    Raises Failed where there is no GPU, or no torch that can use it.
    """
    machine = machine_of(asked.device)
    limit = int(asked.limit_gib * GIB) if asked.limit_gib else machine["memory_bytes"]
    taken, skipped = fitting(_chosen(asked), limit)
    constants = _constants(machine) if asked.device == "cuda" else {}
    with ThreadPoolExecutor(max(1, asked.jobs)) as pool:
        simulations = [pool.submit(_step, "simulate", case, asked.device) for case in taken]
        steps: list[dict[str, Any]] = []
        for case in taken:
            steps.append(_attempted("measure", case, asked.device))
            print(f"{case.name}: {steps[-1].get('problem', 'done')}", file=sys.stderr, flush=True)
            yield Report(machine, list(_rows(taken, steps, simulations, wait=False)), skipped, limit, constants)
        yield Report(machine, list(_rows(taken, steps, simulations, wait=True)), skipped, limit, constants)


def machine_of(device: str) -> dict[str, Any]:
    """What the train environment's torch sees; raises Failed where that is no GPU and one is asked for."""
    found = _answer(CONSTANTS, "machine")
    if device == "cpu":
        return found | {"name": None, "memory_bytes": detect().ram_bytes}
    if found["name"] is None:
        raise Failed(
            "This needs an NVIDIA GPU, and a train environment built for it (`make env-train DEVICE=cuda`); "
            "`--device cpu` rehearses it without."
        )
    return found


def _chosen(asked: Asked) -> list[GpuCase]:
    return [case for case in CASES if asked.only in case.name and (asked.device == "cuda" or case.runs_on_cpu)]


def _constants(machine: dict[str, Any]) -> dict[str, int | None]:
    """Bytes by name; each in a process that has done nothing else."""
    found: dict[str, int | None] = {}
    for what in ("context", "float32", "bfloat16"):
        try:
            found |= _answer(CONSTANTS, what)
        except Failed as failure:
            found[f"{what} ({failure})"] = None
    return found | _nccl(machine["gpus"])


def _nccl(gpus: int) -> dict[str, int | None]:
    if gpus < 2:
        return {"NCCL, needs two GPUs": None}
    try:
        found: dict[str, int | None] = _answer(*TORCHRUN, CONSTANTS, "nccl")
    except Failed as failure:
        return {f"NCCL, two GPUs ({failure})": None}
    return found


def _rows(
    cases: Sequence[GpuCase], steps: Sequence[dict[str, Any]], simulations: Sequence["Future[Any]"], *, wait: bool
) -> Iterator[Row]:
    """Of the cases whose step was attempted; with the simulations there are, or with all of them."""
    for case, step, simulation in zip(cases, steps, simulations, strict=False):
        problem, simulated = step.get("problem"), None
        if wait or simulation.done():
            failure = simulation.exception()
            simulated = None if failure else _phases(simulation.result())
            problem = problem or (f"simulation: {failure}" if failure else None)
        yield Row(case, _phases(step), simulated, step.get("workspace", 0), problem)


def _phases(answer: dict[str, Any]) -> Phases | None:
    found = answer.get("phases")
    return found and {phase: Figures(*sizes) for phase, sizes in found.items()}


def _attempted(verb: str, case: GpuCase, device: str) -> dict[str, Any]:
    """The answer, or the `problem`."""
    try:
        return _step(verb, case, device)
    except Failed as failure:
        return {"problem": str(failure)}


def _step(verb: str, case: GpuCase, device: str) -> dict[str, Any]:
    question = {"config": case.config, "step": case.step.model_dump(mode="json"), "device": device}
    return _answer(STEPS, verb, json.dumps(question), **({} if (verb, device) == ("measure", "cuda") else OFF_THE_GPU))


def _answer(*arguments: str, **variables: str) -> dict[str, Any]:
    """The JSON that a Python of the train environment prints last, with a stage's variables and those given.

    Raises Failed with its last words.
    """
    # The driver counts cards in the order of the bus; torch must do the same.
    environment = runner._environment({"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **variables})
    command = [str(interpreter("train")), *arguments]
    try:
        done = subprocess.run(
            command, cwd=CHECKOUT, env=environment, text=True, capture_output=True, timeout=_SECONDS
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired as error:
        raise Failed(f"took longer than {_SECONDS} s") from error
    except (IndexError, ValueError) as error:
        said = done.stderr.strip().splitlines() or [f"ended with exit code {done.returncode}"]
        raise Failed(said[-1][:300]) from error
    return answer


if __name__ == "__main__":
    main()
