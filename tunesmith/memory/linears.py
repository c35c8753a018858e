"""The linear layers of a block."""

from typing import Literal, NamedTuple

from tunesmith.memory.families import Bias, Family
from tunesmith.memory.sizes import Config, Sizes, refuse_missing, size

EXPERT_NAMES = frozenset({"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
"""Layers that PEFT 0.21, in any model with routed experts, takes for the experts' and adapts there
(utils/transformers_weight_conversion.py), shared experts and dense blocks left out; no adapter goes on them here."""

Source = Literal["attention_norm", "query_latent", "kv_latent", "attention", "mlp_norm", "mlp"]
Targets = tuple[str, ...] | Literal["all-linear"]


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


class Latent(NamedTuple):
    """Widths of multi-head latent attention (arXiv 2405.04434, section 2.1)."""

    query_rank: int | None
    """None where queries are projected at once."""
    rank: int
    """Of the vector that keys and values are made from, and that the cache keeps."""
    rotated: int
    """Of the one rotated key that all heads share, which the cache keeps beside it."""
    plain: int
    """Of a head's key that is not rotated."""
    value: int
    """Of a head's value."""

    @property
    def norm_params(self) -> int:
        """Both narrow vectors are normed."""
        return self.rank + (self.query_rank or 0)


def read_latent(config: Config, family: Family) -> Latent | None:
    """None for ordinary attention. Raises ModelError for widths that are missing or absurd."""
    if not family.latent:
        return None
    refuse_missing(config, ("q_lora_rank", "kv_lora_rank", "v_head_dim"))
    return Latent(
        query_rank=None if config["q_lora_rank"] is None else size(config, "q_lora_rank"),
        rank=size(config, "kv_lora_rank"),
        rotated=size(config, "qk_rope_head_dim"),
        plain=size(config, "qk_nope_head_dim"),
        value=size(config, "v_head_dim"),
    )


def attention_linears(config: Config, sizes: Sizes, family: Family, latent: Latent | None) -> tuple[Linear, ...]:
    """The projections of one block's attention, in the order of the model class."""
    if latent:
        return _latent(config, sizes, latent, _has(config, family.qkv_bias))
    hidden, q, kv = sizes.hidden, sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    output = Linear("o_proj", q, hidden, _has(config, family.output_bias), "attention")
    if family.fused:
        return Linear("qkv_proj", hidden, q + 2 * kv, False, "attention_norm"), output
    bias = _has(config, family.qkv_bias)
    return (
        Linear("q_proj", hidden, q, bias, "attention_norm"),
        Linear("k_proj", hidden, kv, bias, "attention_norm"),
        Linear("v_proj", hidden, kv, bias, "attention_norm"),
        output,
    )


def mlp_linears(config: Config, hidden: int, width: int, family: Family) -> tuple[Linear, ...]:
    """The gated MLP of a block, or of a shared expert; none of width 0."""
    if not width:
        return ()
    bias = _has(config, family.mlp_bias)
    down = Linear("down_proj", width, hidden, bias, "mlp")
    if family.fused:
        return Linear("gate_up_proj", hidden, 2 * width, False, "mlp_norm"), down
    return (
        Linear("gate_proj", hidden, width, bias, "mlp_norm"),
        Linear("up_proj", hidden, width, bias, "mlp_norm"),
        down,
    )


def adapted(linears: tuple[Linear, ...], targets: Targets) -> tuple[Linear, ...]:
    """Those that get an adapter; names match as PEFT matches them, by their end."""
    if targets == "all-linear":
        return linears
    return tuple(linear for linear in linears if any(_names(target, linear) for target in targets))


def beside_experts(linears: tuple[Linear, ...]) -> tuple[Linear, ...]:
    """Those that can be adapted in a model with routed experts."""
    return tuple(linear for linear in linears if linear.name not in EXPERT_NAMES)


def _latent(config: Config, sizes: Sizes, latent: Latent, bias: bool) -> tuple[Linear, ...]:
    """Only what reads the residual stream, or writes it, may have a bias."""
    hidden, heads = sizes.hidden, sizes.heads
    return (
        *_latent_queries(hidden, heads * sizes.head_dim, latent.query_rank, bias),
        Linear("kv_a_proj_with_mqa", hidden, latent.rank + latent.rotated, bias, "attention_norm"),
        Linear("kv_b_proj", latent.rank, heads * (latent.plain + latent.value), False, "kv_latent"),
        Linear("o_proj", heads * latent.value, hidden, bias, "attention"),
    )


def _latent_queries(hidden: int, width: int, rank: int | None, bias: bool) -> tuple[Linear, ...]:
    if rank is None:
        return (Linear("q_proj", hidden, width, False, "attention_norm"),)
    return (
        Linear("q_a_proj", hidden, rank, bias, "attention_norm"),
        Linear("q_b_proj", rank, width, False, "query_latent"),
    )


def _has(config: Config, bias: Bias) -> bool:
    return bias == "always" or (bias != "never" and bool(config.get(bias, False)))


def _names(target: str, linear: Linear) -> bool:
    return target == linear.name or target.endswith(f".{linear.name}")
