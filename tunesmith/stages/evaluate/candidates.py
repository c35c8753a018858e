"""Any model of the pipeline, loaded so that it computes what was trained, as fast as this machine can.

On a CPU every candidate becomes a plain float32 model: an adapter is added to the weights it was trained on, and
packed layers are unpacked once. In float32 that is the same function, and unmerged adapters and packed kernels are
several times slower there.
"""

from pathlib import Path
from typing import Literal

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from tunesmith.artifacts import Adapter, Model, ModelSnapshot, QuantizedModel
from tunesmith.remote_code import is_trusted
from tunesmith.stages.evaluate.packed import unpacked_weights
from tunesmith.store import Store

DeviceName = Literal["cuda", "cpu"]


def load_candidate(model: Model, store: Store, device: DeviceName) -> torch.nn.Module:
    """The candidate in evaluation mode: float32 on a CPU, bfloat16 on a GPU."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    if isinstance(model, Adapter):
        # peft and bitsandbytes take seconds to import; only adapters need them.
        from tunesmith.stages.evaluate.adapted import load_adapted

        return load_adapted(model.method, store.out(model.base), store.out(model), device, dtype).eval()
    if isinstance(model, QuantizedModel):
        return _load_packed(store.out(model), dtype).to(device).eval()
    folder = store.out(model)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=is_trusted(folder))
    return loaded.to(device).eval()


def tokenizer_folder(model: Model, store: Store) -> Path:
    """The candidate's own tokenizer where it has one, else its base's."""
    own = store.out(model)
    if isinstance(model, ModelSnapshot) or (own / "tokenizer_config.json").exists():
        return own
    return store.out(model.base)


def _load_packed(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=is_trusted(folder))
    del config.quantization_config
    weights = unpacked_weights(folder, dtype)
    return _class_of(config, folder).from_pretrained(None, config=config, state_dict=weights, dtype=dtype)


def _class_of(config: PretrainedConfig, folder: Path) -> type[PreTrainedModel]:
    """transformers' class, or the folder's own where that may be run."""
    own = getattr(config, "auto_map", {}).get("AutoModelForCausalLM")
    if own and is_trusted(folder):
        found: type[PreTrainedModel] = get_class_from_dynamic_module(own, folder)
        return found
    known: type[PreTrainedModel] = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return known
