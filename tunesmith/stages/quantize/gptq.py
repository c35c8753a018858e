"""GPTQ (arXiv 2210.17323) through gptqmodel, calibrated on rows of the task itself."""

import json
import os
import random
import shutil
from pathlib import Path

from tunesmith import worker
from tunesmith.artifacts import QuantizedModel
from tunesmith.jobs import GptqJob
from tunesmith.memory.groups import check_group_size
from tunesmith.memory.shape import ModelShape
from tunesmith.specs.quantize import Calibration
from tunesmith.stages.chat import load_tokenizer, render
from tunesmith.worker import Made, Room

_ENGINES_OWN = ("config.json", "quantize_config.json", "model.safetensors.index.json")


def quantize(job: GptqJob, room: Room) -> Made:
    """The merged model in 4 or 8 bits, with its tokenizer, chat template and generation config, as vLLM loads it.

    Starts from the beginning after a kill. Raises GroupSizeError before any weight is read.
    """
    merged = room.store.out(job.model)
    check_group_size(job.spec, ModelShape.from_config(json.loads((merged / "config.json").read_text())))
    for folder in (room.out, room.scratch):
        shutil.rmtree(folder)
    rows = _calibration(merged, room.store.out(job.data) / "train.jsonl", job.spec.calibration)
    _settle_engine()
    # gptqmodel reads its settings from the environment when it is imported.
    from tunesmith.stages.quantize.engine import run_gptq

    losses = run_gptq(job, room, merged, rows)
    _carry_along(merged, room.out)
    artifact = QuantizedModel(fingerprint=job.fingerprint, method=job.spec.method, base=job.model.base)
    return Made(artifact, {**_sizes(merged, room.out), **losses, "calibration_tokens": sum(map(len, rows))})


def _calibration(merged: Path, path: Path, spec: Calibration) -> list[list[int]]:
    """Rows chosen by seed, as tokens, cut at `max_length`."""
    with path.open(encoding="utf-8") as file:
        lines = file.readlines()
    chosen = random.Random(spec.seed).sample(lines, min(spec.rows, len(lines)))
    tokenizer = load_tokenizer(merged)
    return [render(tokenizer, json.loads(line)["messages"]).input_ids[: spec.max_length] for line in chosen]


def _settle_engine() -> None:
    """What gptqmodel needs to know before it is imported; what the user set stays."""
    # On two cores it would plan for one worker and wait for ever for a second.
    workers = min(12, max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(workers))
    # The packer written in C++ is compiled at its first use: that takes longer than packing, and a compiler.
    os.environ.setdefault("GPTQMODEL_DISABLE_PACK_EXT", "1")
    # A log is no place for moving bars.
    os.environ["TERM"] = "dumb"


def _carry_along(merged: Path, out: Path) -> None:
    """The merged model's own tokenizer, chat template and generation config; the engine rewrites some of them."""
    for path in merged.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in _ENGINES_OWN:
            shutil.copyfile(path, out / path.name)


def _sizes(merged: Path, out: Path) -> dict[str, float]:
    before, after = (sum(path.stat().st_size for path in folder.glob("*.safetensors")) for folder in (merged, out))
    return {"weight_bytes": after, "ratio_to_merged": after / before}


if __name__ == "__main__":
    worker.main(quantize)
