"""The sizes of a decoder, read from its config.json: what every figure of the bill is computed from."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from tunesmith.errors import ModelError
from tunesmith.memory.families import FAMILIES, LLAMA, Bias, Family
from tunesmith.specs.spec import Spec

Source = Literal["attention_norm", "attention", "mlp_norm", "mlp"]

_LIMITS = {
    "hidden_size": 1_000_000,
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "head_dim": 100_000,
    "intermediate_size": 10_000_000,
    "vocab_size": 100_000_000,
}
_REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


class Linear(NamedTuple):
    """One linear layer of a block."""

    name: str
    width_in: int
    width_out: int
    has_bias: bool
    source: Source
    """Which tensor it reads; layers with the same source share their input."""

    @property
    def weights(self) -> int:
        return self.width_in * self.width_out

    @property
    def params(self) -> int:
        return self.weights + (self.width_out if self.has_bias else 0)


class ModelShape(Spec):
    """A decoder with `layers` equal blocks."""

    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    """The head is the embedding."""
    linears: tuple[Linear, ...]
    """Of one block."""
    norms: int
    qk_norm: bool
    wide_norm: bool
    softcap: bool
    """Attention scores are capped, so the whole score matrix is kept."""
    fused: bool
    note: str | None = None
    """What was assumed, where something had to be."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ModelShape":
        """The shape a config.json describes; an unknown architecture is taken for a Llama, with a note.

        Raises ModelError where sizes are missing or absurd, and for what is no plain decoder.
        """
        config = config.get("text_config") or config
        _refuse_strange(config)
        family = FAMILIES.get(str(config.get("model_type")), LLAMA)
        sizes = _sizes(config)
        return cls(
            model_type=str(config.get("model_type")),
            tied=bool(config.get("tie_word_embeddings", family.tied)),
            linears=_fused(config, sizes) if family.fused else _separate(config, sizes, family),
            norms=family.norms,
            qk_norm=family.qk_norm,
            wide_norm=family.wide_norm,
            softcap=bool(config.get("attn_logit_softcapping")),
            fused=family.fused,
            note=_note(config),
            **sizes._asdict(),
        )

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def embedding_params(self) -> int:
        return self.vocab * self.hidden

    @property
    def head_params(self) -> int:
        """0 when tied: the embedding is counted once."""
        return 0 if self.tied else self.vocab * self.hidden

    @property
    def linear_weights(self) -> int:
        """Weights of all blocks' linear layers, biases aside: what NF4 and GPTQ pack."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def layer_params(self) -> int:
        norms = self.norms * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        return norms + sum(linear.params for linear in self.linears)

    @property
    def params(self) -> int:
        return self.embedding_params + self.head_params + self.layers * self.layer_params + self.hidden

    @property
    def largest_linear(self) -> int:
        """Weights of the largest linear layer in a block."""
        return max(linear.weights for linear in self.linears)

    def kv_values_per_token(self) -> int:
        """Numbers the KV cache keeps per token: a key and a value in every layer."""
        return 2 * self.layers * self.kv_width

    def adapted(self, targets: tuple[str, ...] | Literal["all-linear"]) -> tuple[Linear, ...]:
        """The linear layers of a block that get an adapter; names match as PEFT matches them, by their end."""
        if targets == "all-linear":
            return self.linears
        return tuple(linear for linear in self.linears if any(_names(target, linear) for target in targets))


class _Sizes(NamedTuple):
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int


def _names(target: str, linear: Linear) -> bool:
    return target == linear.name or target.endswith(f".{linear.name}")


def _refuse_strange(config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if any(config.get(key) for key in _EXPERTS):
        raise ModelError(f"{kind} is a mixture of experts, whose memory is not estimated yet: choose a dense model.")
    if config.get("quantization_config"):
        raise ModelError(
            f"This {kind} is quantized already: start from the repo with the 16-bit weights; qlora packs them itself."
        )
    missing = [key for key in _REQUIRED if key not in config]
    if missing:
        raise ModelError(
            f"config.json of this {kind} model lacks {', '.join(missing)}: "
            "it is no decoder of the Llama kind, or the file is not whole."
        )


def _sizes(config: Mapping[str, Any]) -> _Sizes:
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    kv_heads = _size(config, "num_key_value_heads") if config.get("num_key_value_heads") is not None else heads
    if heads % kv_heads:
        raise ModelError(
            f"config.json says num_attention_heads {heads} and num_key_value_heads {kv_heads}: "
            "the first must be a multiple of the second."
        )
    return _Sizes(
        hidden=hidden,
        layers=_size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(config, hidden, heads),
        ffn=_size(config, "intermediate_size"),
        vocab=_size(config, "vocab_size"),
    )


def _head_dim(config: Mapping[str, Any], hidden: int, heads: int) -> int:
    if config.get("head_dim") is not None:
        return _size(config, "head_dim")
    if hidden % heads:
        raise ModelError(
            f"config.json says hidden_size {hidden} and num_attention_heads {heads}, "
            "which do not divide, and no head_dim: the file is not right."
        )
    return hidden // heads


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LIMITS[key]:
        raise ModelError(
            f"config.json says {key} {value!r}: it must be a whole number from 1 to {_LIMITS[key]}; "
            "fetch the model's own file again."
        )
    return value


def _separate(config: Mapping[str, Any], sizes: _Sizes, family: Family) -> tuple[Linear, ...]:
    hidden, ffn, q, kv = sizes.hidden, sizes.ffn, sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    qkv_bias, mlp_bias = _has(config, family.qkv_bias), _has(config, family.mlp_bias)
    return (
        Linear("q_proj", hidden, q, qkv_bias, "attention_norm"),
        Linear("k_proj", hidden, kv, qkv_bias, "attention_norm"),
        Linear("v_proj", hidden, kv, qkv_bias, "attention_norm"),
        Linear("o_proj", q, hidden, _has(config, family.output_bias), "attention"),
        Linear("gate_proj", hidden, ffn, mlp_bias, "mlp_norm"),
        Linear("up_proj", hidden, ffn, mlp_bias, "mlp_norm"),
        Linear("down_proj", ffn, hidden, mlp_bias, "mlp"),
    )


def _fused(config: Mapping[str, Any], sizes: _Sizes) -> tuple[Linear, ...]:
    q, kv = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    return (
        Linear("qkv_proj", sizes.hidden, q + 2 * kv, False, "attention_norm"),
        Linear("o_proj", q, sizes.hidden, False, "attention"),
        Linear("gate_up_proj", sizes.hidden, 2 * sizes.ffn, False, "mlp_norm"),
        Linear("down_proj", sizes.ffn, sizes.hidden, False, "mlp"),
    )


def _has(config: Mapping[str, Any], bias: Bias) -> bool:
    return bias == "always" or (bias != "never" and bool(config.get(bias, False)))


def _note(config: Mapping[str, Any]) -> str | None:
    kind = config.get("model_type")
    return None if kind in FAMILIES else f"{kind} is not a known architecture: estimated as a Llama of its sizes"
