"""The numbers of a config.json, each checked before anything is computed from it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tunesmith.errors import ModelError
from tunesmith.memory.families import FAMILIES, Family

Config = Mapping[str, Any]
"""A config.json, or the part of one that describes the language model."""

LIMITS = {
    "hidden_size": 1_000_000,
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "head_dim": 100_000,
    "intermediate_size": 10_000_000,
    "vocab_size": 100_000_000,
    "num_local_experts": 100_000,
    "num_experts": 100_000,
    "n_routed_experts": 100_000,
    "n_shared_experts": 100_000,
    "num_experts_per_tok": 100_000,
    "moe_intermediate_size": 10_000_000,
    "shared_expert_intermediate_size": 10_000_000,
    "decoder_sparse_step": 10_000,
    "first_k_dense_replace": 10_000,
    "q_lora_rank": 1_000_000,
    "kv_lora_rank": 1_000_000,
    "qk_nope_head_dim": 100_000,
    "qk_rope_head_dim": 100_000,
    "v_head_dim": 100_000,
    "sliding_window": 1_000_000_000,
    "sliding_window_pattern": 10_000,
    "max_window_layers": 10_000,
}
"""The sizes that are read, and the most that is taken for one."""

_REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
_OF_THE_WHOLE = ("tie_word_embeddings", "quantization_config")


class Sizes(NamedTuple):
    """What every decoder has."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int


def language_model(config: Config) -> Config:
    """The part of a multimodal config.json that describes the language model; a plain one is that part itself.

    Raises ModelError where it is no mapping.
    """
    inner = config.get("text_config") or config
    if not isinstance(inner, Mapping):
        raise ModelError("text_config in config.json is no mapping: fetch the model's own file again.")
    return {key: config[key] for key in _OF_THE_WHOLE if key in config} | dict(inner)


def refuse_strange(config: Config, family: Family) -> None:
    """Raises ModelError for what no bill can be made of: unknown experts, packed weights, no decoder."""
    kind = config.get("model_type")
    if _mixes_experts(config) and not family.routing:
        known = ", ".join(name for name, row in FAMILIES.items() if row.routing)
        raise ModelError(
            f"{kind} is a mixture of experts of a kind whose memory is not estimated: "
            f"choose one of the kinds {known}, or a dense model."
        )
    if config.get("quantization_config"):
        raise ModelError(
            f"This {kind} is quantized already: start from the repo with the 16-bit weights; qlora packs them itself."
        )
    refuse_missing(config, _REQUIRED)


def refuse_missing(config: Config, keys: tuple[str, ...]) -> None:
    """Raises ModelError with the names of those `keys` that are not there."""
    missing = [key for key in keys if key not in config]
    if missing:
        raise ModelError(
            f"config.json of this {config.get('model_type')} model lacks {', '.join(missing)}: "
            "it is no decoder of the Llama kind, or the file is not whole."
        )


def read_sizes(config: Config, family: Family) -> Sizes:
    """Raises ModelError where sizes are absurd or contradict each other."""
    hidden, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    kv_heads = size(config, "num_key_value_heads") if config.get("num_key_value_heads") is not None else heads
    if heads % kv_heads:
        raise ModelError(
            f"config.json says num_attention_heads {heads} and num_key_value_heads {kv_heads}: "
            "the first must be a multiple of the second."
        )
    return Sizes(
        hidden=hidden,
        layers=size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_latent_head_dim(config) if family.latent else _head_dim(config, hidden, heads),
        ffn=size(config, "intermediate_size"),
        vocab=size(config, "vocab_size"),
    )


def size(config: Config, key: str, least: int = 1) -> int:
    """The whole number under `key`. Raises ModelError where it is none, or beyond reason."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LIMITS[key]:
        raise ModelError(
            f"config.json says {key} {value!r}: it must be a whole number from {least} to {LIMITS[key]}; "
            "fetch the model's own file again."
        )
    return value


def _head_dim(config: Config, hidden: int, heads: int) -> int:
    if config.get("head_dim") is not None:
        return size(config, "head_dim")
    if hidden % heads:
        raise ModelError(
            f"config.json says hidden_size {hidden} and num_attention_heads {heads}, "
            "which do not divide, and no head_dim: the file is not right."
        )
    return hidden // heads


def _latent_head_dim(config: Config) -> int:
    """A head_dim in such a file is the rotated part alone, so it is not asked."""
    refuse_missing(config, ("qk_nope_head_dim", "qk_rope_head_dim"))
    return size(config, "qk_nope_head_dim") + size(config, "qk_rope_head_dim")


def _mixes_experts(config: Config) -> bool:
    """Some key counts experts; dense models of families that have both say 0 or 1."""
    counts = [value for key, value in config.items() if "experts" in key and "per_tok" not in key]
    return any(isinstance(value, int | list) and value not in (0, 1, []) for value in counts)
