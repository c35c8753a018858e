"""The sizes of a decoder, read from its config.json: what every figure of the bill is computed from."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

from tunesmith.memory.experts import Experts, count_moe_layers, read_experts, shared_linears
from tunesmith.memory.families import FAMILIES, LLAMA, Family
from tunesmith.memory.linears import (
    Latent,
    Linear,
    Source,
    Targets,
    adapted,
    attention_linears,
    beside_experts,
    mlp_linears,
    read_latent,
)
from tunesmith.memory.sizes import Config, Sizes, language_model, read_sizes, refuse_strange
from tunesmith.memory.windows import Window, read_window
from tunesmith.specs.spec import Spec

__all__ = ["Block", "Experts", "Latent", "Linear", "ModelShape", "Source", "Window"]


class Block(NamedTuple):
    """One kind of block: its linear layers, norms and experts, and how many of the model's blocks are such."""

    num_layers: int
    linears: tuple[Linear, ...]
    norm_params: int
    experts: Experts | None

    @property
    def linear_weights(self) -> int:
        """Of the linear layers, biases and routed experts aside."""
        return sum(linear.weights for linear in self.linears)

    @property
    def ffn(self) -> int:
        """Width of the MLP that serves every token; 0 where only routed experts do."""
        return next((linear.width_in for linear in self.linears if linear.source == "mlp"), 0)

    @property
    def params(self) -> int:
        return self._always_used + (self.experts.weights if self.experts else 0)

    @property
    def active_params(self) -> int:
        """What takes part in one token."""
        return self._always_used + (self.experts.active_weights if self.experts else 0)

    @property
    def _always_used(self) -> int:
        router = self.experts.router_weights if self.experts else 0
        return self.norm_params + router + sum(linear.params for linear in self.linears)


class ModelShape(Spec):
    """A decoder with `layers` blocks: all equal, or some dense and some with experts."""

    model_type: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    """Width of a dense block's MLP."""
    vocab: int
    tied: bool
    """The head is the embedding."""
    linears: tuple[Linear, ...]
    """Of one block; of a dense one where there are both kinds. Routed experts are no linear layers."""
    moe_linears: tuple[Linear, ...] = ()
    """Of one block with experts: its attention, and its shared expert."""
    moe_layers: int = 0
    experts: Experts | None = None
    """Of one block with experts."""
    latent: Latent | None = None
    window: Window | None = None
    norms: int
    qk_norm: bool
    wide_norm: bool
    softcap: bool
    """Attention scores are capped, so the whole score matrix is kept."""
    capped_logits: bool = False
    """The logits too, so the capped ones are kept."""
    fused: bool
    note: str | None = None
    """What was assumed, where something had to be."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ModelShape":
        """The shape a config.json describes; an unknown architecture is taken for a Llama, with a note.

        Of a multimodal model this is the language model alone. Raises ModelError where sizes are missing or absurd, and
        for what is no decoder of a known make.
        """
        found = language_model(config)
        kind = str(found.get("model_type"))
        family = FAMILIES.get(kind, LLAMA)
        found = {**family.defaults, **found}
        refuse_strange(found, family)
        sizes = read_sizes(found, family)
        return cls(
            model_type=kind,
            tied=bool(found.get("tie_word_embeddings", False)),
            norms=family.norms,
            qk_norm=family.qk_norm,
            wide_norm=family.wide_norm,
            softcap=bool(found.get("attn_logit_softcapping")),
            capped_logits=bool(found.get("final_logit_softcapping")),
            fused=family.fused,
            window=read_window(found, family.sliding, sizes.layers),
            note=None if kind in FAMILIES else f"{kind} is not a known architecture: estimated as a Llama of its sizes",
            **_blocks(found, sizes, family),
            **sizes._asdict(),
        )

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def dense_layers(self) -> int:
        """Blocks without experts."""
        return self.layers - self.moe_layers

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The kinds of blocks there are: one, or a dense one and one with experts."""
        norms = self._norm_params
        dense = (Block(self.dense_layers, self.linears, norms, None),) if self.dense_layers else ()
        moe = (Block(self.moe_layers, self.moe_linears, norms, self.experts),) if self.moe_layers else ()
        return dense + moe

    @property
    def embedding_params(self) -> int:
        return self.vocab * self.hidden

    @property
    def head_params(self) -> int:
        """0 when tied: the embedding is counted once."""
        return 0 if self.tied else self.vocab * self.hidden

    @cached_property
    def linear_weights(self) -> int:
        """Weights of all blocks' linear layers, biases aside: what NF4 packs, and GPTQ at least."""
        return sum(block.num_layers * block.linear_weights for block in self.blocks)

    @cached_property
    def expert_weights(self) -> int:
        """Weights of all routed experts; not among `linear_weights`."""
        return self.moe_layers * self.experts.weights if self.experts else 0

    @cached_property
    def layer_params(self) -> int:
        """Of the largest block."""
        return max(block.params for block in self.blocks)

    @cached_property
    def params(self) -> int:
        return self._outer_params + sum(block.num_layers * block.params for block in self.blocks)

    @property
    def active_params(self) -> int:
        """Numbers that take part in one token, embedding and head in full; all of them in a dense model."""
        return self._outer_params + sum(block.num_layers * block.active_params for block in self.blocks)

    @cached_property
    def largest_linear(self) -> int:
        """Weights of the largest linear layer in a block."""
        return max(linear.weights for block in self.blocks for linear in block.linears)

    def kv_values_per_token(self) -> int:
        """Numbers the KV cache keeps per token: a key and a value in every layer, or what both are made from."""
        per_layer = self.latent.rank + self.latent.rotated if self.latent else 2 * self.kv_width
        return self.layers * per_layer

    def adapted(self, targets: Targets, block: Block | None = None) -> tuple[Linear, ...]:
        """The linear layers of a block, or of a dense one, that get an adapter: with routed experts, those of the
        attention. Names match as PEFT matches them, by their end.
        """
        linears = block.linears if block else self.linears
        return adapted(beside_experts(linears) if self.experts else linears, targets)

    @property
    def _norm_params(self) -> int:
        """Of one block."""
        per_head = 2 * self.head_dim if self.qk_norm else 0
        return self.norms * self.hidden + per_head + (self.latent.norm_params if self.latent else 0)

    @property
    def _outer_params(self) -> int:
        """Embedding, head, and the last norm."""
        return self.embedding_params + self.head_params + self.hidden


def _blocks(config: Config, sizes: Sizes, family: Family) -> dict[str, Any]:
    """The fields that say what blocks are made of."""
    latent, experts = read_latent(config, family), read_experts(config, family)
    attention = attention_linears(config, sizes, family, latent)
    dense = attention + mlp_linears(config, sizes.hidden, sizes.ffn, family)
    number = count_moe_layers(config, family.routing, sizes.layers) if family.routing else 0
    if not experts or not number:
        return {"linears": dense, "latent": latent}
    moe = attention + shared_linears(config, family, experts)
    return {
        "linears": moe if number == sizes.layers else dense,
        "moe_linears": moe,
        "moe_layers": number,
        "experts": experts,
        "latent": latent,
    }
