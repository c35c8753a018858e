"""The bill: every byte the run needs, by phase and item, on the device, on the host and on disk."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from tunesmith.artifacts import ModelSource
from tunesmith.hub.choose import is_pickled
from tunesmith.hub.gguf_names import is_gguf
from tunesmith.memory import phases
from tunesmith.memory.constants import (
    CPU_PROCESS_BYTES,
    CPU_SLACK,
    CUDA_CONTEXT_BYTES,
    NUM_CHECKPOINTS,
    WEIGHT_FILE_BYTES,
)
from tunesmith.memory.evaluation import Batch, evaluate_items, judged_on, judged_weights
from tunesmith.memory.findings import Findings, corrected
from tunesmith.memory.said import BillItem
from tunesmith.memory.saving import copied_items, save_items
from tunesmith.memory.serving import serve_items
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.slack import plain_slack, step_slack
from tunesmith.memory.step import Step
from tunesmith.memory.training import (
    Items,
    held_weights,
    host_bytes,
    moments,
    standing_items,
    step_items,
    total,
    trained_params,
    weight_items,
)
from tunesmith.specs.quantize import Gptq
from tunesmith.specs.recipe import Recipe
from tunesmith.specs.train import Full

DeviceKind = Literal["cuda", "cpu"]
Place = Literal["device", "host"]
Kind = Literal["allocated", "slack", "context"]
_KINDS: dict[str, Kind] = {
    "process": "context",
    "CUDA context": "context",
    "NCCL": "context",
    "largest weight file, beyond that": "context",
    "allocator slack": "slack",
    "held by malloc": "slack",
}


class Case(NamedTuple):
    """What is to be billed."""

    recipe: Recipe
    source: ModelSource
    shape: ModelShape
    findings: Findings = Findings()
    """Of an architecture that is not known: what simulations say of its steps."""
    unsimulated: str | None = None
    """Why there are none, a clause or nothing; None where they were not missed."""


class Layout(NamedTuple):
    """What a plan may choose."""

    device: DeviceKind
    step: Step
    accumulation_steps: int
    evaluation_rows: int
    """Rows answered at once."""


def bill(case: Case, layout: Layout) -> tuple[BillItem, ...]:
    """The items of every phase at its fullest moment; items of nothing are left out."""
    found = tuple(
        BillItem(phase=phase, item=item, bytes=size, place=place, kind=_KINDS.get(item, "allocated"))
        for phase, place, items in _phases(case, layout)
        for item, size in items.items()
        if size
    )
    finding = case.findings.of(layout.step)
    return corrected(found, finding, layout.device) if finding else found


def peaks(items: Iterable[BillItem], place: Place = "device", *, slack: bool = True) -> dict[str, int]:
    """Bytes by phase on the device, or on the host beside it; with what the allocator holds beyond it, or without."""
    found: dict[str, int] = {}
    for item in items:
        if item.place == place and (slack or item.kind != "slack"):
            found[item.phase] = found.get(item.phase, 0) + item.bytes
    return found


def max_model_len(recipe: Recipe) -> int:
    """Longest sequence the server takes, tokens."""
    return recipe.serve.max_model_len or recipe.train.max_length + recipe.evaluate.max_new_tokens


def disk_items(case: Case) -> dict[str, int]:
    """What each stage adds to the store at most, bytes; checkpoints go when the training is done."""
    method, shape, quantize = case.recipe.train, case.shape, case.recipe.quantize
    trained = trained_params(shape, method) * 4
    packed = {"quantize": phases.served_bytes(shape, quantize)} if isinstance(quantize, Gptq) else {}
    return {
        "download": case.source.total_bytes + _converted(case),
        "train": (NUM_CHECKPOINTS + 1) * 3 * trained + trained,
        "merge": 2 * shape.params,
        **packed,
    }


def _converted(case: Case) -> int:
    """Bytes of safetensors made of what comes as something else: of pickles as many, of a GGUF 16 bits a number."""
    if _is_gguf(case):
        return 2 * case.shape.params
    return case.source.total_bytes if is_pickled(entry.path for entry in case.source.files) else 0


def _is_gguf(case: Case) -> bool:
    return is_gguf(entry.path for entry in case.source.files)


def _converting(case: Case, place: Place) -> list[tuple[str, Place, Items]]:
    """In host memory, before anything is on a device."""
    items = phases.convert_items(case.shape, case.source.total_bytes)
    return [("convert", place, items)] if _is_gguf(case) else []


def _phases(case: Case, layout: Layout) -> list[tuple[str, Place, Items]]:
    return _on_cpu(case, layout) if layout.device == "cpu" else _on_cuda(case, layout)


def _on_cpu(case: Case, layout: Layout) -> list[tuple[str, Place, Items]]:
    recipe, shape, step = case.recipe, case.shape, layout.step
    process, mapped = {"process": CPU_PROCESS_BYTES}, {"largest weight file, mapped": _largest_file(case)}
    training = step_items(shape, step)
    held = int(CPU_SLACK * (total(training) - total(standing_items(shape, step))))
    found: list[tuple[str, Place, Items]] = [
        *_converting(case, "device"),
        ("load", "device", process | weight_items(shape, step) | mapped),
        ("train", "device", process | training | {"held by malloc": held}),
        ("save", "device", process | save_items(shape, step) | {"held by malloc": held}),
        ("merge", "device", phases.merge_items(shape)),
    ]
    if isinstance(recipe.quantize, Gptq):
        quantizing = {"weights (bf16)": 2 * shape.params, **phases.quantize_items(shape, recipe.quantize)}
        found.append(("quantize", "device", process | quantizing))
    found.append(("evaluate", "device", process | _judging_on_cpu(case, layout)))
    serving = serve_items(shape, recipe.quantize, recipe.serve, max_model_len(recipe), "cpu")
    return [*found, ("serve", "device", serving)]


def _on_cuda(case: Case, layout: Layout) -> list[tuple[str, Place, Items]]:
    recipe, shape, step = case.recipe, case.shape, layout.step
    weights, training = held_weights(shape, step), moments(shape, step)
    loading = plain_slack(weights, unpacked=2 * shape.largest_linear if step.is_nf4 else 0)
    process = {"process": CPU_PROCESS_BYTES}
    in_16_bits = process | {"weights (bf16)": 2 * shape.params}
    found: list[tuple[str, Place, Items]] = [
        *_converting(case, "host"),
        ("load", "device", _allocated(weights, loading)),
        ("load", "host", process | _staged(case, step)),
        ("train", "device", _allocated(max(training.values(), key=total), step_slack(shape, step, training))),
        ("train", "host", _beside(shape, step)),
        ("save", "device", _allocated(save_items(shape, step))),
        ("save", "host", _beside(shape, step) | copied_items(shape, step)),
        ("merge", "host", phases.merge_items(shape)),
    ]
    if isinstance(recipe.quantize, Gptq):
        found.append(("quantize", "device", _allocated(phases.quantize_items(shape, recipe.quantize))))
        found.append(("quantize", "host", in_16_bits))
    found.append(("evaluate", "device", _allocated(evaluating(case, layout))))
    found.append(("evaluate", "host", in_16_bits))
    serving = serve_items(shape, recipe.quantize, recipe.serve, max_model_len(recipe), "cuda")
    return [*found, ("serve", "device", {"CUDA context": CUDA_CONTEXT_BYTES, **serving})]


def evaluating(case: Case, layout: Layout) -> Items:
    """What tensors take while a batch is put to the fullest of the models that are judged."""
    batch = Batch(layout.evaluation_rows, layout.step.method.max_length, case.recipe.evaluate.max_new_tokens)
    return evaluate_items(case.shape, judged_on(layout.device, case.shape, layout.step), batch)


def _judging_on_cpu(case: Case, layout: Layout) -> Items:
    """The batch, and what a weight file takes beyond it while it is read in beside the weights made from it."""
    judged = evaluating(case, layout)
    (plain,) = judged_on("cpu", case.shape, layout.step)
    read_in = total(judged_weights(case.shape, plain)) + _largest_file(case)
    return judged | {"largest weight file, beyond that": max(0, read_in - total(judged))}


def _beside(shape: ModelShape, step: Step) -> Items:
    """Host memory of all the training's processes on one machine."""
    processes = step.parallel.world_size
    return {"process": CPU_PROCESS_BYTES * processes, "offloaded states": host_bytes(shape, step) * processes}


def _allocated(items: Items, slack: int | None = None) -> Items:
    """With the context, and what the allocator holds beyond tensors: where most of these stay, unless it is given."""
    held = plain_slack(items) if slack is None else slack
    return {"CUDA context": CUDA_CONTEXT_BYTES, **items, "allocator slack": held}


def _staged(case: Case, step: Step) -> Items:
    """Weights are read into host memory and moved, or, for NF4, packed file by file on the device."""
    if step.is_nf4:
        return {"largest weight file": _largest_file(case)}
    number_bytes = step.trained_bytes if isinstance(step.method, Full) else step.frozen_bytes
    return {"weights": case.shape.params * number_bytes}


def _largest_file(case: Case) -> int:
    if _is_gguf(case):
        return min(_converted(case), WEIGHT_FILE_BYTES)
    sizes = (entry.size for entry in case.source.files if entry.path.endswith((".safetensors", ".bin")))
    return max(sizes, default=0)
