"""Merging: an adapter into the base's own 16-bit weights, one tensor at a time, never into quantized ones.

Each changed weight is W + scale * B A computed in float32 and rounded once; every other tensor is copied.
"""

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tunesmith import worker
from tunesmith.artifacts import Adapter, MergedModel
from tunesmith.errors import ModelError
from tunesmith.jobs import MergeJob
from tunesmith.stages.merge.adapter import Update, read_updates
from tunesmith.stages.merge.weights import (
    DTYPES,
    INDEX,
    Layout,
    Stored,
    cast,
    copied,
    raw,
    read,
    read_layout,
    write_file,
    write_index,
)
from tunesmith.worker import Made, Room

_WIDE = ("F32", "F64")
_NAMES = {"BF16": "bfloat16", "F16": "float16"}


def merge(job: MergeJob, room: Room) -> Made:
    """A complete model in `room.out`: 16-bit weights, and all that travels along with the base's.

    Raises ModelError for an adapter or base that cannot be merged, CorruptArtifact for tensors that do not fit.
    """
    base = room.store.out(job.tuned.base)
    tuned = room.store.out(job.tuned)
    is_adapter = isinstance(job.tuned, Adapter)
    layout = read_layout(base if is_adapter else tuned)
    updates = read_updates(tuned, layout) if is_adapter else {}
    width = _width(layout)
    _write_config(base, room.out, width.dtype)
    written = _write_weights(layout, updates, width, room)
    _copy_the_rest(base, room.out)
    total = sum(map(len, layout.values()))
    print(f"merge: {len(updates)} of {total} tensors changed, {written / 1e6:.0f} MB in {_NAMES[width.dtype]}")
    figures = {"tensors": float(total), "tensors_changed": float(len(updates)), "weight_bytes": float(written)}
    return Made(MergedModel(fingerprint=job.fingerprint, base=job.tuned.base), figures)


class Width(NamedTuple):
    """How floats are written."""

    dtype: str
    """BF16 or F16."""
    narrow: bool
    """Whether every wider tensor becomes `dtype`; in a 16-bit model the few 32-bit ones are so on purpose, and stay."""

    def of(self, tensor: Stored, changed: bool) -> str:
        """The dtype to write a tensor in."""
        return self.dtype if tensor.dtype in _WIDE and (self.narrow or changed) else tensor.dtype


def _width(layout: Layout) -> Width:
    """The dtype most of the model's floats have; a 32-bit model becomes BF16."""
    sizes = dict.fromkeys((*_NAMES, *_WIDE), 0)
    for tensor in (tensor for tensors in layout.values() for tensor in tensors):
        if tensor.dtype in sizes:
            sizes[tensor.dtype] += tensor.num_bytes
    most = max(sizes, key=lambda name: sizes[name])
    return Width(most, narrow=False) if most in _NAMES else Width("BF16", narrow=True)


def _write_weights(layout: Layout, updates: Mapping[str, Update], width: Width, room: Room) -> int:
    """Writes file after file, split as the source is; returns the weights' bytes."""
    planned = {
        name: [tensor._replace(dtype=width.of(tensor, tensor.name in updates)) for tensor in tensors]
        for name, tensors in layout.items()
    }
    source = {tensor.name: tensor for tensors in layout.values() for tensor in tensors}
    told = _Teller(room, len(source))
    for name, tensors in planned.items():
        write_file(room.out / name, tensors, lambda target: told(_pieces(source[target.name], target.dtype, updates)))
    if len(planned) > 1:
        write_index(room.out, planned)
    return sum(tensor.num_bytes for tensors in planned.values() for tensor in tensors)


def _pieces(stored: Stored, dtype: str, updates: Mapping[str, Update]) -> Iterable[bytes | memoryview]:
    """The bytes of one tensor of the result."""
    if update := updates.get(stored.name):
        return [_merged(stored, dtype, update)]
    return copied(stored) if stored.dtype == dtype else cast(stored, dtype)


def _merged(stored: Stored, dtype: str, update: Update) -> memoryview:
    if dtype not in _NAMES:
        raise ModelError(f"The base holds {stored.name} as {dtype}: start from the model's 16-bit weights.")
    rounded = update.applied_to(read(stored)).to(DTYPES[dtype])
    if not torch.isfinite(rounded).all():
        raise ModelError(f"{stored.name} is no longer finite once merged: lower train.learning_rate and train again.")
    return raw(rounded)


class _Teller:
    """Passes tensors through and emits progress at most once a second."""

    def __init__(self, room: Room, total: int) -> None:
        self.room, self.total = room, total
        self.done, self.told = 0, 0.0

    def __call__(self, pieces: Iterable[bytes | memoryview]) -> Iterable[bytes | memoryview]:
        yield from pieces
        self.done += 1
        if self.done == self.total or time.monotonic() - self.told > 1:
            self.told = time.monotonic()
            self.room.emit("progress", done=self.done, total=self.total, unit="tensor")


def _write_config(base: Path, out: Path, dtype: str) -> None:
    """The base's config.json with the dtype of the weights beside it."""
    config: dict[str, Any] = json.loads((base / "config.json").read_text())
    if found := config.get("quantization_config"):
        method = found.get("quant_method", "unknown")
        raise ModelError(f"The base model is quantized ({method}): start from its 16-bit weights.")
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in {"dtype", "torch_dtype"} & part.keys():
            part[key] = _NAMES[dtype]
    if not {"dtype", "torch_dtype"} & config.keys():
        config["dtype"] = _NAMES[dtype]
    (out / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _copy_the_rest(base: Path, out: Path) -> None:
    """Tokenizer, chat template, generation config, licence: every file of the base but its weights and config."""
    for path in (path for path in base.rglob("*") if path.is_file()):
        if path.suffix == ".safetensors" or path.name in ("config.json", INDEX):
            continue
        target = out / path.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


if __name__ == "__main__":
    worker.main(merge)
