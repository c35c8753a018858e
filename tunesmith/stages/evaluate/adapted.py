"""An adapter on the very base it was trained on."""

from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from tunesmith.remote_code import is_trusted


def load_adapted(method: str, base: Path, adapter: Path, device: str, dtype: torch.dtype) -> nn.Module:
    """The base with its adapter; on a CPU as one plain float32 model.

    For `qlora` the base is the NF4 one, dequantized by bitsandbytes' own code before the adapter is added: the sum is
    what the trained forward pass computes. On a GPU the adapter stays beside its base, because adding it to 16-bit
    weights would round it.
    """
    model = load_nf4(base, device, dtype) if method == "qlora" else _load_plain(base, device, dtype)
    if device != "cpu":
        return PeftModel.from_pretrained(model, adapter)
    if method == "qlora":
        dequantize_linears(model)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def load_nf4(base: Path, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """The base as QLoRA trains on it: NF4 with double quantization."""
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return _load_plain(base, device, dtype, quantization_config=config)


def dequantize_linears(model: nn.Module) -> None:
    """Replaces every 4-bit layer by a float32 one with the weights it stands for."""
    for name, packed in [(n, m) for n, m in model.named_modules() if isinstance(m, Linear4bit)]:
        plain = nn.Linear(packed.in_features, packed.out_features, packed.bias is not None, device="meta")
        weight = dequantize_4bit(packed.weight.data, packed.weight.quant_state).float()
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if packed.bias is not None:
            plain.bias = nn.Parameter(packed.bias.data.float(), requires_grad=False)
        model.set_submodule(name, plain)


def _load_plain(base: Path, device: str, dtype: torch.dtype, **settings: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, device_map={"": device}, trust_remote_code=is_trusted(base), **settings
    )
