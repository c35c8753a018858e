"""The model to train: loaded in the plan's precision, and given an adapter where the method has one."""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from tunesmith.artifacts import Plan
from tunesmith.errors import RecipeError
from tunesmith.memory.linears import EXPERT_NAMES, Targets
from tunesmith.remote_code import is_trusted
from tunesmith.specs.train import Full, Lora, QLora, SettledTrain

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_ATTENTION = {"eager": "eager", "sdpa": "sdpa", "flash": "flash_attention_2"}
"""transformers' names."""


def load_model(folder: Path, spec: SettledTrain, plan: Plan) -> PreTrainedModel | PeftModel:
    """The base in `folder`, ready for `spec.method`; raises RecipeError for targets it does not have.

    A frozen base stands in the plan's precision (QLoRA: NF4 with double quantization, arXiv 2305.14314); weights
    that are trained stand in float32 unless the arithmetic is bfloat16 throughout.
    """
    frozen = DTYPES[plan.precision]
    wide = isinstance(spec, Full) and plan.step.arithmetic != "bf16"
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        attn_implementation=_ATTENTION[plan.step.attention],
        dtype=torch.float32 if wide else frozen,
        trust_remote_code=is_trusted(folder),
        quantization_config=nf4_config(frozen) if isinstance(spec, QLora) else None,
        device_map={"": 0 if plan.device == "cuda" else "cpu"} if isinstance(spec, QLora) else None,
    )
    model.config.use_cache = False
    if isinstance(spec, QLora):
        freeze_packed(model)
    if isinstance(spec, Full):
        return model
    # PEFT widens an adapter to float32 unless told to leave it in the base's precision.
    wide = plan.step.adapter_precision == "fp32"
    return get_peft_model(model, adapter_config(model, spec), autocast_adapter_dtype=wide)


def nf4_config(compute: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantization (arXiv 2305.14314, section 3), unpacked to `compute` for every product."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def freeze_packed(model: nn.Module) -> None:
    """Freezes a packed base, and widens to float32 what is not packed of it, as PEFT's prepare_model_for_kbit_training
    does; but not the routed experts, which bitsandbytes leaves in 16 bits and which are nearly all of such a model.
    """
    for weight in model.parameters():
        weight.requires_grad = False
        is_packed = type(weight).__name__ == "Params4bit"
        if weight.dtype in (torch.bfloat16, torch.float16) and not is_packed and weight.dim() < 3:
            weight.data = weight.data.float()


def adapter_config(model: PreTrainedModel, spec: Lora | QLora) -> LoraConfig:
    """The adapter that `spec` describes; raises RecipeError for targets the model does not have."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=_targets(model, spec.targets),
    )


def _targets(model: PreTrainedModel, asked: Targets) -> str | list[str]:
    """In PEFT's words; every target must end the name of some layer that can be adapted, for a misspelt one would be
    left out without a word. Where there are routed experts, no adapter goes on them, nor on what is named as they are.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if any(weight.dim() == 3 for weight in model.parameters()):
        head = {name for name, module in model.named_modules() if module is model.get_output_embeddings()}
        linear = [name for name in linear if name not in head and name.rpartition(".")[2] not in EXPERT_NAMES]
        asked = tuple(sorted({name.rpartition(".")[2] for name in linear})) if asked == "all-linear" else asked
    if asked == "all-linear":
        return asked
    _check_targets(asked, linear)
    return list(asked)


def _check_targets(targets: Sequence[str], linear: Sequence[str]) -> None:
    unknown = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if unknown or not targets:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise RecipeError(
            f"train.targets: the model has no linear layer named {' or '.join(unknown) or '(none given)'}; "
            f"choose from {', '.join(known)}, or write all-linear."
        )
