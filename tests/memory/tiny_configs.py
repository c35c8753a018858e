"""Random small configurations of every family, small enough to run."""

from random import Random
from typing import Any

DENSE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3")
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3")


def tiny_config(model_type: str, seed: int) -> dict[str, Any]:
    """One config.json; every choice that its family has is drawn from the seed."""
    draw = Random(f"{model_type} {seed}")
    layers = draw.randint(1, 7)
    return {
        **_common(draw, layers),
        "model_type": model_type,
        **(_mixture(draw, model_type, layers) if model_type in MIXTURES else {}),
        **(_latent(draw) if model_type.startswith("deepseek") else {"head_dim": draw.choice((8, 16))}),
        **_window(draw, model_type, layers),
    }


def _common(draw: Random, layers: int) -> dict[str, Any]:
    heads = draw.choice((2, 4, 6))
    return {
        "hidden_size": heads * draw.choice((8, 16)),
        "intermediate_size": draw.choice((24, 40)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": draw.choice((1, 2, heads)),
        "vocab_size": draw.randint(32, 99),
        "pad_token_id": 0,
        "tie_word_embeddings": draw.random() < 0.5,
        "attention_bias": draw.random() < 0.5,
        "mlp_bias": draw.random() < 0.5,
    }


def _mixture(draw: Random, model_type: str, layers: int) -> dict[str, Any]:
    counts = {"mixtral": "num_local_experts", "qwen2_moe": "num_experts", "qwen3_moe": "num_experts"}
    return {
        counts.get(model_type, "n_routed_experts"): draw.choice((2, 4)),
        "num_experts_per_tok": draw.choice((1, 2)),
        "moe_intermediate_size": draw.choice((8, 16)),
        "shared_expert_intermediate_size": draw.choice((8, 24)),
        "decoder_sparse_step": draw.choice((1, 1, 2, 3)),
        "mlp_only_layers": draw.sample(range(layers), draw.randint(0, layers)) if draw.random() < 0.5 else [],
        "qkv_bias": draw.random() < 0.5,
        "first_k_dense_replace": draw.randint(0, layers + 1),
        "n_shared_experts": draw.choice((1, 2)),
        "n_group": 1,
        "topk_group": 1,
    }


def _latent(draw: Random) -> dict[str, Any]:
    return {
        "q_lora_rank": draw.choice((None, 12)),
        "kv_lora_rank": draw.choice((8, 20)),
        "qk_nope_head_dim": draw.choice((8, 16)),
        "qk_rope_head_dim": draw.choice((4, 8)),
        "v_head_dim": draw.choice((8, 24)),
        "num_key_value_heads": None,
    }


def _window(draw: Random, model_type: str, layers: int) -> dict[str, Any]:
    """A window shorter than what the tests run, or one the family ignores, and where it applies."""
    tokens, limit = draw.choice((5, 9)), draw.randint(0, layers + 1)
    if model_type.startswith("qwen"):
        used = draw.random() < 0.7
        return {"use_sliding_window": used, "sliding_window": tokens, "max_window_layers": limit}
    if model_type == "gemma3_text":
        return {"sliding_window": tokens, "sliding_window_pattern": draw.randint(1, 4)}
    if model_type in ("mistral", "mixtral", "phi3"):
        return {"sliding_window": draw.choice((None, tokens))}
    return {"sliding_window": tokens} if model_type == "gemma2" else {}
