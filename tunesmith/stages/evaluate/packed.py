"""GPTQ weights turned back into plain ones, once, instead of in every forward pass.

The packed layout is auto-gptq's, which gptqmodel writes and vLLM reads: `qweight` packs `32 / bits` rows of codes into
each 32-bit word, `qzeros` as many columns, and a weight is `scale * (code - zero)` with scale and zero of its group.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open

from tunesmith.errors import ModelError

_PARTS = ("qweight", "qzeros", "scales", "g_idx")


def unpacked_weights(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Every tensor of a GPTQ model in `dtype`, packed layers as `<layer>.weight` of shape (out, in).

    Raises ModelError for a layout other than 4 or 8 bits in 32-bit words.
    """
    bits, zero_shift = _layout(folder)
    tensors = dict(_tensors(folder))
    layers = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    for layer in layers:
        qweight, qzeros, scales, groups = (tensors.pop(f"{layer}.{part}") for part in _PARTS)
        tensors[f"{layer}.weight"] = _unpack(qweight, qzeros, scales, groups, bits, zero_shift)
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def _layout(folder: Path) -> tuple[int, int]:
    """Bits per code, and what the format subtracted from the zeros before packing them."""
    said = json.loads((folder / "config.json").read_text())["quantization_config"]
    form = said.get("checkpoint_format", "gptq")
    if said["bits"] not in (4, 8) or form not in ("gptq", "gptq_v2") or said.get("pack_dtype", "int32") != "int32":
        raise ModelError(
            f"The quantized model is packed as {said['bits']} bits, {form}: "
            "only gptq with 4 or 8 bits can be evaluated; quantize it again."
        )
    return said["bits"], 1 if form == "gptq" else 0


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                yield name, file.get_tensor(name)


def _unpack(
    qweight: torch.Tensor, qzeros: torch.Tensor, scales: torch.Tensor, groups: torch.Tensor, bits: int, zero_shift: int
) -> torch.Tensor:
    """One layer's weight, float32, (out, in)."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    mask = (1 << bits) - 1
    codes = ((qweight[:, None, :] >> shifts[None, :, None]) & mask).flatten(0, 1)
    zeros = ((qzeros[:, :, None] >> shifts) & mask).flatten(1) + zero_shift
    group = groups.long()
    return (scales.float()[group] * (codes - zeros[group])).T.contiguous()
