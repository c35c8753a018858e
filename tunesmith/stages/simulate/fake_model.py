"""The model as the trainer and the evaluation load it, without its weights: same class, same adapter, same precision.

It is built on the meta device, since neither transformers nor PEFT can move fake tensors about, and then every weight
is replaced by a fake one on the CPU.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import bitsandbytes
import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer

from tunesmith.errors import ModelError, RecipeError, UnknownArchitecture
from tunesmith.memory.step import Attention, Step
from tunesmith.specs.train import Full, SettledTrain
from tunesmith.stages.simulate.kernels import FLASH_LIBRARY, Kernels
from tunesmith.stages.train.model import adapter_config, freeze_packed, nf4_config

_REFUSALS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, StrictDataclassError,
    TypeError, ValueError,
)  # fmt: skip
"""What transformers' classes raise over a configuration they cannot be made from."""


class Loading(NamedTuple):
    """How a model is loaded."""

    method: SettledTrain
    dtype: torch.dtype
    """Of the base's weights; where those are packed, what they are unpacked to."""
    is_packed: bool
    has_adapter: bool
    adapter_in_float32: bool
    is_trained: bool
    attention: Attention


def for_training(step: Step) -> Loading:
    """As the train stage loads: frozen weights in the arithmetic's precision, trained ones in float32."""
    is_full = isinstance(step.method, Full)
    is_wide = step.arithmetic == "fp32" or (is_full and step.arithmetic == "amp")
    return Loading(
        step.method,
        torch.float32 if is_wide else torch.bfloat16,
        is_packed=step.is_nf4,
        has_adapter=not is_full,
        adapter_in_float32=step.adapter_precision == "fp32",
        is_trained=True,
        attention=step.attention,
    )


def for_evaluation(step: Step, kernels: Kernels) -> tuple[Loading, ...]:
    """As the evaluate stage loads those that it judges, of which one is the fullest: plain ones in float32 on a CPU and
    in 16 bits on a GPU, and there the base with its adapter; with the attention that transformers chooses.
    """
    dtype = torch.float32 if kernels == "cpu" else torch.bfloat16
    plain = Loading(
        step.method, dtype, is_packed=False, has_adapter=False, adapter_in_float32=True, is_trained=False,
        attention="sdpa",
    )  # fmt: skip
    if kernels == "cpu" or isinstance(step.method, Full):
        return (plain,)
    adapted = plain._replace(is_packed=step.is_nf4, has_adapter=True)
    return (plain, adapted) if step.is_nf4 else (adapted,)


def meta_model(config: Mapping[str, Any], loading: Loading) -> PreTrainedModel | PeftModel:
    """On the meta device.

    Raises ModelError where the class refuses the configuration, and RecipeError for targets that cannot be adapted.
    """
    model = _base(config, loading)
    model.config.use_cache = not loading.is_trained
    if loading.is_packed:
        _pack(model, loading)
    if not loading.has_adapter:
        return model
    assert not isinstance(loading.method, Full)
    adapter = adapter_config(model, loading.method)
    try:
        return get_peft_model(model, adapter, autocast_adapter_dtype=loading.adapter_in_float32)
    except ValueError as error:
        raise RecipeError(f"PEFT adapts no such layers ({_first_words(error)}): choose other train.targets.") from error


def _base(config: Mapping[str, Any], loading: Loading) -> PreTrainedModel:
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        own = ", or run the repo's own code with model.trust_remote_code" if "auto_map" in config else ""
        raise UnknownArchitecture(
            f"This transformers has no model_type {kind!r}: choose a model it knows, or update it{own}."
        )
    try:
        parsed = CONFIG_MAPPING[kind].from_dict(dict(config))
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                parsed, dtype=loading.dtype, attn_implementation=_implementation(parsed, loading.attention)
            )
    except _REFUSALS as error:
        raise ModelError(
            f"transformers' {kind} refuses this config.json ({_first_words(error)}): fetch the model's own file again."
        ) from error


def _first_words(error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        said = f"it knows no {said}"
    return said if len(said) <= 300 else said[:300] + "…"


def _implementation(config: PretrainedConfig, attention: Attention) -> str | None:
    """None lets transformers choose: torch's fused kernels, and for models that have no use of them, eager."""
    if attention == "flash":
        return FLASH_LIBRARY
    return "eager" if attention == "eager" else None


def _pack(model: PreTrainedModel, loading: Loading) -> None:
    """The steps of from_pretrained with a quantization_config, and what the trainer does after it."""
    quantizer = AutoHfQuantizer.from_config(nf4_config(loading.dtype))
    quantizer.preprocess_model(model, dtype=loading.dtype, device_map={"": "cpu"})
    quantizer.postprocess_model(model)
    if loading.is_trained:
        freeze_packed(model)


def materialize(model: nn.Module, dtype: torch.dtype) -> None:
    """Puts fake CPU tensors in place of all weights and buffers; call it in a FakeTensorMode.

    A weight that several modules share stays one. A 4-bit weight comes in `dtype` and is packed by bitsandbytes' own
    code, as it is on loading.
    """
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and weight.device.type == "meta":
                if id(weight) not in made:
                    made[id(weight)] = _packed(module, dtype) if _is_packed(module, name) else _parameter(weight)
                module._parameters[name] = made[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.device.type == "meta":
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _parameter(weight: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype), requires_grad=weight.requires_grad)


def _is_packed(module: nn.Module, name: str) -> bool:
    return name == "weight" and isinstance(module, bitsandbytes.nn.Linear4bit)


def _packed(layer: Any, dtype: torch.dtype) -> nn.Parameter:
    whole = torch.empty(layer.out_features, layer.in_features, dtype=dtype)
    packed, state = bitsandbytes.functional.quantize_4bit(whole, compress_statistics=True, quant_type="nf4")
    weight = nn.Parameter(packed, requires_grad=False)
    weight.quant_state = state
    # On a CPU in evaluation it would be packed once more, for an instruction set that a GPU does not have.
    layer.support_avx512bf16_for_cpu = False
    return weight
