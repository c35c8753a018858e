"""gptqmodel, and what it takes to keep it quiet."""

import logging
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from logbar import LogBar
from torch import nn
from transformers.utils.logging import disable_progress_bar

LogBar.shared().setLevel("WARN")

from gptqmodel import GPTQModel, QuantizeConfig  # noqa: E402 (it prints a banner on import, unless told before)

from tunesmith.jobs import GptqJob  # noqa: E402
from tunesmith.remote_code import is_trusted  # noqa: E402
from tunesmith.worker import Room  # noqa: E402

_BATCH_TOKENS = 4096
"""Calibration tokens per forward pass, padding included; padding stays out of the Hessians."""


def run_gptq(job: GptqJob, room: Room, merged: Path, rows: Sequence[list[int]]) -> dict[str, float]:
    """Writes the quantized model to `room.out` and returns its losses."""
    disable_progress_bar()
    logging.getLogger("tokenicer").setLevel(logging.WARNING)
    on_cpu = job.device == "cpu"
    # Half-precision arithmetic is far slower than float32 on most CPUs.
    dtype = torch.float32 if on_cpu else "auto"
    model = GPTQModel.load(str(merged), _config(job, room), dtype=dtype, trust_remote_code=is_trusted(merged))
    stored = torch.bfloat16 if on_cpu else model.model.dtype
    model.layer_callback = _Progress(room, model.model.config.get_text_config().num_hidden_layers)
    batch = max(1, min(len(rows), _BATCH_TOKENS // max(map(len, rows))))
    log = model.quantize(list(rows), batch_size=batch, calibration_data_min_length=1)
    _shrink(model.model, stored)
    with redirect_stdout(StringIO()):
        model.save(str(room.out))
    return _losses([entry for entries in log.values() for entry in entries])


class _Progress:
    """Told by gptqmodel when a layer is through."""

    def __init__(self, room: Room, total: int) -> None:
        self.room, self.total = room, total

    def layer_complete(self, *, layer_idx: int, submodule_finalized: bool) -> None:
        if submodule_finalized:
            self.room.emit("progress", done=layer_idx + 1, total=self.total, unit="layer")


def _config(job: GptqJob, room: Room) -> QuantizeConfig:
    # Where there is no accelerator to make room on, moving layers to disk only costs time.
    offload = str(room.scratch / "offload") if job.device == "cuda" else None
    return QuantizeConfig(
        bits=job.spec.bits,
        group_size=job.spec.group_size,
        desc_act=job.spec.desc_act,
        damp_percent=job.spec.damp,
        device=job.device,
        offload_to_disk=offload is not None,
        offload_to_disk_path=offload,
    )


def _shrink(model: nn.Module, dtype: torch.dtype) -> None:
    """What is not quantized goes back to 16 bits: embeddings, norms, biases."""
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and tensor.dtype == torch.float32 and name not in module._non_persistent_buffers_set:
                tensor.data = tensor.data.to(dtype)
    model.config.dtype = dtype


def _losses(log: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean loss over the layers GPTQ solved, and how many fell back to rounding for want of data."""
    told = [str(entry["loss"]) for entry in log]
    solved = [float(loss) for loss in told if loss.replace(".", "").isdigit()]
    return {"mean_loss": fmean(solved) if solved else 0.0, "layers_rounded": len(told) - len(solved)}
