"""What benchmarks/gpu_truth.py found, as rows, errors, Markdown and JSON."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

from benchmarks.gpu_cases import OPTIMIZER, PHASES, Figures, GpuCase, Phases, billed, needed_bytes
from tunesmith.memory.constants import CUDA_CONTEXT_BYTES, GIB
from tunesmith.memory.parallel import NCCL_BYTES

MIB = 2**20


class Row(NamedTuple):
    """A case: the step that was taken, and the same step by the bill and by the simulation."""

    case: GpuCase
    real: Phases | None
    """None where it was not taken, or failed."""
    simulated: Phases | None
    workspace: int = 0
    """Bytes that cuBLAS holds in torch's allocator; the bill counts them with the context, so `tensors` is without."""
    problem: str | None = None
    """Why a figure is missing."""

    @property
    def tensors(self) -> Phases | None:
        """What was measured of torch's allocator, less the workspaces; the device's figure as it is."""
        if self.real is None:
            return None
        return {phase: _less(figures, self.workspace) for phase, figures in self.real.items()}

    @property
    def errors(self) -> dict[str, float]:
        """Signed, in percent of what was measured at the step's fullest moment, by figure and by who predicted it."""
        if self.tensors is None:
            return {}
        found = {}
        truth = fullest(self.tensors)
        for name, predicted in (("bill", billed(self.case)), ("simulation", self.simulated)):
            for key, size, real in zip(Figures._fields, fullest(predicted), truth, strict=True):
                if size and real:
                    found[f"{key}, {name}"] = 100 * (size / real - 1)
        return found

    @property
    def document(self) -> dict[str, Any]:
        """For JSON."""
        phases = {"measured": self.real, "bill": billed(self.case), "simulation": self.simulated}
        return {
            "case": self.case.name, "step": self.case.step.model_dump(mode="json"), "config": self.case.config,
            **{name: _plain(found) for name, found in phases.items()},
            "workspace_bytes": self.workspace, "errors_percent": self.errors, "problem": self.problem,
        }  # fmt: skip


class Report(NamedTuple):
    """All of a run."""

    machine: dict[str, Any]
    rows: Sequence[Row]
    skipped: Sequence[GpuCase]
    limit_bytes: int
    constants: dict[str, int | None]
    """Bytes by name; None where it could not be measured."""

    @property
    def ran(self) -> list[Row]:
        return [row for row in self.rows if row.real is not None]

    @property
    def document(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "limit_bytes": self.limit_bytes,
            "constants": self.constants,
            "rows": [row.document for row in self.rows],
            "skipped": {case.name: needed_bytes(case) for case in self.skipped},
        }


def fullest(phases: Phases | None) -> Figures:
    """Of the whole step."""
    found = list((phases or {}).values())
    return Figures(
        _largest(one.allocated for one in found) or 0,
        _largest(one.reserved for one in found),
        _largest(one.device for one in found),
    )


def _largest(sizes: Iterable[int | None]) -> int | None:
    return max((size for size in sizes if size is not None), default=None)


def markdown(report: Report) -> str:
    lines = [
        *_heading(report),
        *_table(report.rows),
        "",
        *_summary(report.ran),
        "\n## Constants\n",
        *_constants(report),
        *_left_out(report),
    ]
    return "\n".join(lines) + "\n"


def _heading(report: Report) -> Iterator[str]:
    machine = report.machine
    libraries = ", ".join(f"{name} {found or 'missing'}" for name, found in machine["versions"].items())
    yield f"The second step of transformers.Trainer on {machine['name'] or 'a CPU'}; {libraries}"
    yield f"driver {machine.get('driver')}, growing segments: {machine.get('expandable')}.\n"
    yield "GiB at the fullest moment, and errors in %, + is too much. Tensors and reserved are torch's figures without"
    yield "cuBLAS's workspaces, which the bill counts with the CUDA context; device is the whole card's use by the job,"
    yield "and the bill's is the high end of its interval. Paged states may show in it, and are not in the bill.\n"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "| case | forward, backward: tensors | bill % | simulation % | optimizer: tensors | bill % | simulation % "
        "| reserved | bill % | simulation % | device | bill % |"
    )
    yield "| --- |" + " ---: |" * 11
    yield from (_line(row) for row in rows)


def _line(row: Row) -> str:
    if row.tensors is None:
        return f"| {row.case.name} |" + " |" * 11
    bill, simulated, step = billed(row.case), row.simulated or {}, fullest(row.tensors)
    cells = []
    for phase in PHASES:
        real = row.tensors[phase].allocated
        cells += [_gib(real), _error(bill[phase].allocated, real), _error(_allocated(simulated, phase), real)]
    cells += [_gib(step.reserved), _error(fullest(bill).reserved, step.reserved)]
    cells += [_error(fullest(simulated).reserved, step.reserved), _gib(step.device)]
    cells += [_error(fullest(bill).device, step.device)]
    return f"| {row.case.name} | {' | '.join(cells)} |"


def _summary(rows: Sequence[Row]) -> Iterator[str]:
    """Of the steps' fullest moments."""
    names = list(dict.fromkeys(name for row in rows for name in row.errors))
    yield f"{len(rows)} steps were taken. Of their fullest moments:\n"
    for name in names:
        errors = [row.errors[name] for row in rows if name in row.errors]
        yield f"- {name}: median of |error| {median(map(abs, errors)):.2f} %, worst {max(errors, key=abs):+.2f} %."


def _constants(report: Report) -> Iterator[str]:
    yield "| constant | default | measured |"
    yield "| --- | ---: | ---: |"
    defaults = {"context": CUDA_CONTEXT_BYTES, "NCCL": NCCL_BYTES}
    for name, size in report.constants.items():
        default = defaults.get(name.partition(",")[0])
        yield f"| {name} | {_mib(default) if default else ''} | {_mib(size)} |"
    steps = [size for row in report.ran if (size := _context(row)) is not None]
    yield f"| context in a step, with cuBLAS's workspaces | {_mib(CUDA_CONTEXT_BYTES)} | {_range(steps, _mib)} |"
    for name, nf4 in (("slack", False), ("slack, NF4", True)):
        rows = [row for row in report.ran if row.case.step.is_nf4 == nf4]
        bills, reals = _shares(billed(row.case) for row in rows), _shares(row.tensors for row in rows)
        yield f"| {name} | {_range(bills, _percent)} | {_range(reals, _percent)} |"


def _left_out(report: Report) -> Iterator[str]:
    """What did not run, with the reason."""
    if report.skipped:
        yield f"\n## Skipped: billed more than {_gib(report.limit_bytes)} GiB\n"
    yield from (f"- {case.name}: {_gib(needed_bytes(case))} GiB" for case in report.skipped)
    failed = [row for row in report.rows if row.problem]
    if failed:
        yield "\n## Failed\n"
    yield from (f"- {row.case.name}: {row.problem}" for row in failed)


def _context(row: Row) -> int | None:
    """What the device has in use beyond tensors and what the allocator holds beside them."""
    figures = (row.real or {}).get(OPTIMIZER)
    if figures is None or figures.device is None or figures.reserved is None:
        return None
    return figures.device - figures.reserved + row.workspace


def _shares(steps: Iterable[Phases | None]) -> list[float]:
    """What the allocator reserves beyond tensors, in percent of them; of the steps that say so."""
    found = [fullest(phases) for phases in steps if phases]
    return [100 * (step.reserved / step.allocated - 1) for step in found if step.reserved is not None]


def _percent(share: float) -> str:
    return f"{share:.1f} %"


def _range(values: Sequence[float], show: Callable[[Any], str]) -> str:
    if not values:
        return "not measured"
    return f"median {show(median(values))}, from {show(min(values))} to {show(max(values))}"


def _less(figures: Figures, workspace: int) -> Figures:
    reserved = None if figures.reserved is None else figures.reserved - workspace
    return Figures(figures.allocated - workspace, reserved, figures.device)


def _plain(phases: Phases | None) -> dict[str, Any] | None:
    return phases and {phase: figures._asdict() for phase, figures in phases.items()}


def _allocated(phases: Phases, phase: str) -> int | None:
    return phases[phase].allocated if phase in phases else None


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / GIB:.3f}"


def _mib(size: float | None) -> str:
    return "not measured" if size is None else f"{size / MIB:.1f} MiB"


def _error(predicted: int | None, real: int | None) -> str:
    return f"{100 * (predicted / real - 1):+.2f}" if predicted and real else ""
