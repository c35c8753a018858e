"""What the decoder families differ in, as far as memory goes. Their config.json leaves these facts to the code."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Bias = Literal["never", "always", "attention_bias", "mlp_bias", "qkv_bias"]
"""`always`, `never`, or the key of config.json that says."""

Sliding = Literal["no layer", "every layer", "late layers", "odd layers", "odd early layers", "all but every nth"]
"""Which layers attend to a window only, counted from one, where config.json has no layer_types."""

Placing = Literal["every layer", "steps", "after the dense ones"]
"""Which layers have experts."""


class Routing(NamedTuple):
    """The keys under which config.json says what a mixture of experts is made of."""

    num_key: str
    width_key: str
    placing: Placing
    shared_width_key: str | None = None
    """For the width of an expert that serves every token."""
    shared_num_key: str | None = None
    """For how many experts of the common width serve every token, as one."""
    shared_gate: bool = False
    """A linear layer of width one weighs the shared expert."""
    weighs_in_float32: bool = False
    """The router's weights are float32 whatever the rest is."""


class Family(NamedTuple):
    """One row, read off the model classes of transformers 5."""

    qkv_bias: Bias = "never"
    output_bias: Bias = "never"
    mlp_bias: Bias = "never"
    norms: int = 2
    """Norms of the hidden width per layer."""
    qk_norm: bool = False
    """Queries and keys are normed per head."""
    wide_norm: bool = False
    """The norm scales in float32 before it rounds."""
    fused: bool = False
    """One linear layer for q, k and v, and one for gate and up."""
    latent: bool = False
    """Keys and values come from one narrow vector per token: multi-head latent attention (arXiv 2405.04434, 2.1)."""
    sliding: Sliding = "no layer"
    routing: Routing | None = None
    defaults: Mapping[str, int | bool] = {}
    """What keys mean that config.json leaves out."""


_BIASED = Family(qkv_bias="attention_bias", output_bias="attention_bias")
_QWEN = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
_QWEN_MOE = {"use_sliding_window": False, "decoder_sparse_step": 1}
_MISTRAL = {"num_key_value_heads": 8}
_GEMMA = {"tie_word_embeddings": True, "head_dim": 256}
_GEMMA2 = {**_GEMMA, "num_key_value_heads": 4, "sliding_window": 4096}
_DEEPSEEK = Routing(
    num_key="n_routed_experts",
    width_key="moe_intermediate_size",
    placing="after the dense ones",
    shared_num_key="n_shared_experts",
    weighs_in_float32=True,
)

LLAMA = _BIASED._replace(mlp_bias="mlp_bias")

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": Family(sliding="every layer", defaults={**_MISTRAL, "sliding_window": 4096}),
    "mixtral": Family(
        sliding="every layer",
        routing=Routing(
            num_key="num_local_experts", width_key="intermediate_size", placing="every layer", weighs_in_float32=True
        ),
        defaults=_MISTRAL,
    ),
    "qwen2": Family(qkv_bias="always", sliding="late layers", defaults=_QWEN),
    "qwen2_moe": Family(
        qkv_bias="qkv_bias",
        sliding="odd early layers",
        routing=Routing(
            num_key="num_experts",
            width_key="moe_intermediate_size",
            placing="steps",
            shared_width_key="shared_expert_intermediate_size",
            shared_gate=True,
        ),
        defaults={**_QWEN_MOE, "max_window_layers": 28, "qkv_bias": True},
    ),
    "qwen3": _BIASED._replace(qk_norm=True, sliding="late layers", defaults={**_QWEN, "head_dim": 128}),
    "qwen3_moe": _BIASED._replace(
        qk_norm=True,
        sliding="every layer",
        routing=Routing(num_key="num_experts", width_key="moe_intermediate_size", placing="steps"),
        defaults=_QWEN_MOE,
    ),
    "gemma": _BIASED._replace(wide_norm=True, defaults=_GEMMA),
    "gemma2": _BIASED._replace(
        wide_norm=True,
        norms=4,
        sliding="odd layers",
        defaults={**_GEMMA2, "attn_logit_softcapping": 50, "final_logit_softcapping": 30},
    ),
    "gemma3_text": _BIASED._replace(
        wide_norm=True,
        norms=4,
        qk_norm=True,
        sliding="all but every nth",
        defaults={**_GEMMA2, "num_attention_heads": 8, "vocab_size": 262208, "sliding_window_pattern": 6},
    ),
    "phi3": Family(fused=True, sliding="every layer"),
    "deepseek_v2": LLAMA._replace(latent=True, routing=_DEEPSEEK),
    "deepseek_v3": _BIASED._replace(latent=True, routing=_DEEPSEEK),
}
