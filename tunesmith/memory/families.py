"""What the decoder families differ in, as far as memory goes. Their config.json leaves these facts to the code."""

from typing import Literal, NamedTuple

Bias = Literal["never", "always", "attention_bias", "mlp_bias"]
"""`always`, `never`, or the key of config.json that says."""


class Family(NamedTuple):
    """One row, read off the model classes of transformers 5."""

    qkv_bias: Bias = "never"
    output_bias: Bias = "never"
    mlp_bias: Bias = "never"
    tied: bool = False
    """What an absent tie_word_embeddings means."""
    norms: int = 2
    """Norms of the hidden width per layer."""
    qk_norm: bool = False
    """Queries and keys are normed per head."""
    wide_norm: bool = False
    """The norm scales in float32 before it rounds."""
    fused: bool = False
    """One linear layer for q, k and v, and one for gate and up."""


LLAMA = Family(qkv_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias")

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": Family(),
    "qwen2": Family(qkv_bias="always"),
    "qwen3": Family(qkv_bias="attention_bias", output_bias="attention_bias", qk_norm=True),
    "gemma": Family(qkv_bias="attention_bias", output_bias="attention_bias", tied=True, wide_norm=True),
    "gemma2": Family(qkv_bias="attention_bias", output_bias="attention_bias", tied=True, wide_norm=True, norms=4),
    "gemma3_text": Family(
        qkv_bias="attention_bias", output_bias="attention_bias", tied=True, wide_norm=True, norms=4, qk_norm=True
    ),
    "phi3": Family(fused=True),
}
