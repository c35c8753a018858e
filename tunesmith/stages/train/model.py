"""The model to train: loaded in the plan's precision, and given an adapter where the method has one."""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from tunesmith.artifacts import Plan
from tunesmith.errors import RecipeError
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
        quantization_config=nf4_config(frozen) if isinstance(spec, QLora) else None,
        device_map={"": 0 if plan.device == "cuda" else "cpu"} if isinstance(spec, QLora) else None,
    )
    model.config.use_cache = False
    if isinstance(spec, QLora):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
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


def adapter_config(model: PreTrainedModel, spec: Lora | QLora) -> LoraConfig:
    """The adapter that `spec` describes; raises RecipeError for targets the model does not have."""
    if spec.targets != "all-linear":
        _check_targets(model, spec.targets)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=spec.targets if isinstance(spec.targets, str) else list(spec.targets),
    )


def _check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Every target must end the name of some linear layer, for a misspelt one would be left out without a word."""
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    unknown = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in linear)]
    if unknown or not targets:
        known = sorted({name.rpartition(".")[2] for name in linear})
        raise RecipeError(
            f"train.targets: the model has no linear layer named {' or '.join(unknown) or '(none given)'}; "
            f"choose from {', '.join(known)}, or write all-linear."
        )
