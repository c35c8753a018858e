"""The config.json of a GGUF's model: what transformers reads from the file's settings, and what it leaves out.

Checked against llama.cpp's converter (convert_hf_to_gguf.py) and the models it writes; what can be known to be lost is
refused by name, for a model that is a little wrong trains all the same.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, __version__
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tunesmith.errors import ModelError, UnknownArchitecture
from tunesmith.hub.gguf_head import Head

_LEFT_OUT: dict[str, dict[str, str]] = {
    "llama": {"attention.key_length": "head_dim"},
    "qwen3": {"attention.key_length": "head_dim"},
    "qwen3moe": {"expert_feed_forward_length": "moe_intermediate_size"},
    "qwen2moe": {
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    },
    "gemma2": {
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    },
}
"""By architecture: settings that transformers 5.23 reads past, and what config.json calls them."""
_LOST = ("logit_scale", "embedding_scale", "residual_scale", "attention.scale", "attention.clamp_kqv")
"""Settings that change the model's numbers and that transformers reads past."""
_SCALES_BY_WIDTH = {"gemma2": 46, "gemma3": 62}
"""Layers of the Gemmas of 27 B, whose attention divides by the root of the width per head, not of a head's."""
_ROTATES_ALL = ("llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "gemma2", "gemma3", "phi3")
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of every Llama 3.1 to 3.3; a GGUF keeps only what follows from it."""


def read_config(file: Path, head: Head, where: str) -> PreTrainedConfig:
    """The configuration that belongs to the file's weights; `where` names it in sentences.

    Raises UnknownArchitecture for what transformers cannot read from a GGUF, ModelError for what it reads wrong.
    """
    refuse_lost(head, where)
    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, NotImplementedError) as error:
        if "architecture" not in str(error) and "model_type" not in str(error):
            raise
        raise unknown(head, where) from error
    _complete(config, head)
    _check_rotation(config, head, where)
    return config


def unknown(head: Head, where: str) -> UnknownArchitecture:
    return UnknownArchitecture(
        f"{where} is a {head.architecture} model, which transformers {__version__} cannot read from a GGUF: "
        "name a repo or a folder with its safetensors."
    )


def refuse_lost(head: Head, where: str) -> None:
    """Raises ModelError for settings that would not arrive in the model."""
    name, kind = head.architecture, head.text("general.type")
    if kind not in ("", "model"):
        raise ModelError(f"{where} holds no model but an {kind}: name the model's own GGUF.")
    lost = [key for key in _LOST if head.number(f"{name}.{key}") not in (0, 1)]
    if _stretch(head) is not None and name != "gpt-oss" and not _is_known_stretch(head):
        lost.append("rope.scaling.type")
    if lost:
        raise ModelError(
            f"{where} sets {', '.join(f'{name}.{key}' for key in lost)}, which transformers {__version__} does not "
            "take over from a GGUF: name a repo or a folder with its safetensors."
        )


def _stretch(head: Head) -> str | None:
    """How positions beyond those it was trained on are scaled; None where they are not."""
    name = head.architecture
    kind = head.text(f"{name}.rope.scaling.type")
    factor = head.number(f"{name}.rope.scaling.factor") or head.number(f"{name}.rope.scale_linear")
    return None if factor in (0, 1) or kind == "none" else kind or "linear"


def _is_known_stretch(head: Head) -> bool:
    return head.architecture == "gemma3" and _stretch(head) == "linear"


def _complete(config: PreTrainedConfig, head: Head) -> None:
    name = head.architecture
    for key, ours in _LEFT_OUT.get(name, {}).items():
        if (value := head.fields.get(f"{name}.{key}")) is not None:
            setattr(config, ours, value)
    if name in _SCALES_BY_WIDTH:
        by_width = config.num_hidden_layers == _SCALES_BY_WIDTH[name]
        config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if by_width else config.head_dim
    if _is_known_stretch(head):
        factor = head.number(f"{name}.rope.scaling.factor")
        config.rope_parameters["full_attention"] |= {"rope_type": "linear", "factor": factor}


def _check_rotation(config: PreTrainedConfig, head: Head, where: str) -> None:
    """A file may say that only a part of each head is rotated."""
    rotated = head.number(f"{head.architecture}.rope.dimension_count")
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head.architecture in _ROTATES_ALL and rotated not in (0, width):
        raise ModelError(
            f"{where} rotates {rotated} of the {width} numbers of a head, which transformers {__version__} does not "
            "take over from a GGUF: name a repo or a folder with its safetensors."
        )


def follow_factors(config: PreTrainedConfig, factors: torch.Tensor, where: str) -> None:
    """Sets Llama 3's rope scaling where `factors`, of shape [head_dim / 2], are the file's `rope_freqs.weight`.

    Raises ModelError where they are not what any Llama 3 has.
    """
    theta = config.rope_parameters["rope_theta"]
    plain, _ = ROPE_INIT_FUNCTIONS["llama3"](_with(config, theta, 1.0), torch.device("cpu"))
    largest = float(factors.max())
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](_with(config, theta, largest), torch.device("cpu"))
    if factors.shape != plain.shape or not torch.allclose(plain / scaled, factors, rtol=1e-3):
        raise ModelError(
            f"{where} scales its positions in a way of its own (rope_freqs.weight), which transformers {__version__} "
            "does not take over from a GGUF: name a repo or a folder with its safetensors."
        )


def _with(config: PreTrainedConfig, theta: float, factor: float) -> PreTrainedConfig:
    config.rope_parameters = {"rope_type": "llama3", "rope_theta": theta, "factor": factor, **_LLAMA3}
    return config


def content(config: PreTrainedConfig) -> dict[str, Any]:
    """What `save_pretrained` writes as config.json, but for the version of transformers."""
    found: dict[str, Any] = config.to_diff_dict()
    return {key: value for key, value in found.items() if key not in ("transformers_version", "_name_or_path")}
