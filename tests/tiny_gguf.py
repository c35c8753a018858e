"""Makes tiny random models twice: as a folder, and as the GGUF that llama.cpp's converter would write of it.

`python tests/tiny_gguf.py OUT FAMILY:KIND…` makes `OUT/FAMILY-KIND/` and `OUT/FAMILY-KIND.gguf` of each; a KIND is one of
GGML's, such as F32 or Q8_0.

Runs in the `train` environment. What packing takes away is taken from the folder's weights too, so both hold the same.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from tiny_model import SPECIAL, TEMPLATE, tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB = 512
_NORM = ("norm.weight", "norm")
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 2.0**-17,
    "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
_HEADS = {"head_dim": 32}
_GEMMA = {**_HEADS, "query_pre_attn_scalar": 32, "sliding_window": 64}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
_FAR = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
}
_SHARED = {"shared_expert_intermediate_size": 96, "norm_topk_prob": False}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", "llama", {"tie_word_embeddings": False}),
    "llama3": ("llama", "llama", {"rope_parameters": _LLAMA3, "max_position_embeddings": 131072, **_HEADS}),
    "qwen2": ("qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", "qwen3", {"tie_word_embeddings": True, **_HEADS}),
    "qwen3_moe": ("qwen3_moe", "qwen3moe", {"tie_word_embeddings": False, **_HEADS, **_EXPERTS}),
    "qwen2_moe": ("qwen2_moe", "qwen2moe", {"tie_word_embeddings": False, **_EXPERTS, **_SHARED}),
    "gemma2": ("gemma2", "gemma2", _GEMMA),
    "gemma2_large": ("gemma2", "gemma2", {**_GEMMA, "num_hidden_layers": 46, "query_pre_attn_scalar": 16}),
    "gemma3": ("gemma3_text", "gemma3", _GEMMA),
    "gemma3_far": ("gemma3_text", "gemma3", {**_GEMMA, "rope_parameters": _FAR}),
    "phi3": ("phi3", "phi3", {"tie_word_embeddings": False}),
}
"""transformers' name, llama.cpp's, and what is special."""
PRE = {"llama": "smollm", "llama3": "llama-bpe", "phi3": "gpt-4o", "qwen2": "qwen2"}
"""How text is split; `gpt-2` for all others."""


def random_model(family: str) -> PreTrainedModel:
    """In bfloat16; norms are not all ones, so that a wrong one shows."""
    kind, _, special = FAMILIES[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**_SIZES, **special}))
    for name, values in model.named_parameters():
        if name.endswith(_NORM) or name.endswith("bias"):
            values.data += torch.randn_like(values) / 8
    return model.to(torch.bfloat16)


def tensors(model: PreTrainedModel, arch: str) -> dict[str, torch.Tensor]:
    """By GGUF name, laid out as llama.cpp wants them."""
    config = model.config
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(numbers[arch], config.num_hidden_layers)
    found: dict[str, torch.Tensor] = {}
    tied = config.tie_word_embeddings
    for name, values in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        if name.endswith("experts.gate_up_proj"):
            block = f"blk.{name.split('.')[2]}"
            found[f"{block}.ffn_gate_exps.weight"], found[f"{block}.ffn_up_exps.weight"] = values.chunk(2, dim=1)
            continue
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        place = place if place.endswith((".weight", ".bias")) else f"{place}.weight"
        found[place] = _laid_out(name, values, arch, config)
    return found


def _laid_out(name: str, values: torch.Tensor, arch: str, config: Any) -> torch.Tensor:
    if arch == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        return values.reshape(heads, 2, values.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
    if arch in ("gemma2", "gemma3") and name.endswith(_NORM):
        return values.float() + 1
    return values.squeeze() if name.endswith("shared_expert_gate.weight") else values


def rope_factors() -> torch.Tensor:
    """What llama.cpp divides Llama 3's frequencies by, one for each pair of a head's numbers."""
    found = []
    for frequency in (1 / 500000.0 ** (number / 32) for number in range(0, 32, 2)):
        turns = 8192 * frequency / (2 * math.pi)
        smooth = min(max((turns - 1) / (4 - 1), 0), 1)
        found.append(1 / ((1 - smooth) / 8 + smooth))
    return torch.tensor(found)


def write(model: PreTrainedModel, path: Path, family: str, kind: str) -> None:
    arch = FAMILIES[family][1]
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {**_settings(model.config, arch), **_vocabulary(PRE.get(family, "gpt-2"))}.items():
        if value is not None:
            _add(writer, key, value)
    laid_out = {**tensors(model, arch), **({"rope_freqs.weight": rope_factors()} if family == "llama3" else {})}
    packing = gguf.GGMLQuantizationType[kind]
    for name, values in laid_out.items():
        plain = values.ndim < 2
        wanted = gguf.GGMLQuantizationType.F32 if plain else packing
        data = quantize(np.ascontiguousarray(values.float().numpy()), wanted)
        writer.add_tensor(name, data, raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _settings(config: Any, arch: str) -> dict[str, Any]:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    found = {
        "context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps, "rope.freq_base": float(rope["rope_theta"]),
        "rope.dimension_count": head_dim, "attention.key_length": head_dim,
        "rope.scaling.type": "linear" if rope["rope_type"] == "linear" else None, "rope.scaling.factor": rope["factor"] if rope["rope_type"] == "linear" else None,
        "attention.sliding_window": getattr(config, "sliding_window", None) if arch.startswith("gemma") else None,
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None),
        "final_logit_softcapping": getattr(config, "final_logit_softcapping", None),
        "expert_count": getattr(config, "num_experts", None), "vocab_size": VOCAB if arch == "llama" else None,
        "expert_used_count": getattr(config, "num_experts_per_tok", None),
        "expert_feed_forward_length": getattr(config, "moe_intermediate_size", None),
        "expert_shared_feed_forward_length": getattr(config, "shared_expert_intermediate_size", None),
    }  # fmt: skip
    return {"general.name": "Tiny", **{f"{arch}.{key}": value for key, value in found.items()}}


def _vocabulary(pre: str) -> dict[str, Any]:
    model = json.loads(tokenizer(VOCAB).backend_tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    tokens += [f"[PAD{number}]" for number in range(len(tokens), VOCAB)]
    kinds = [3 if token in SPECIAL else 5 if token.startswith("[PAD") else 1 for token in tokens]
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": TEMPLATE,
    }  # fmt: skip


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)


def packed(model: PreTrainedModel, kind: str) -> PreTrainedModel:
    """The model with what packing leaves of its weights."""
    packing = gguf.GGMLQuantizationType[kind]
    with torch.no_grad():
        for values in model.parameters():
            if values.ndim >= 2:
                values.copy_(torch.from_numpy(dequantize(quantize(values.float().numpy(), packing), packing)))
    return model


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for asked in sys.argv[2:]:
        family, _, kind = asked.partition(":")
        model = random_model(family)
        write(model, out / f"{family}-{kind}.gguf", family, kind)
        packed(model, kind).save_pretrained(out / f"{family}-{kind}")
        tokenizer(VOCAB).save_pretrained(out / f"{family}-{kind}")


if __name__ == "__main__":
    main()
