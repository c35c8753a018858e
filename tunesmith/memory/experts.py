"""The experts of a mixture, and the layers that have them."""

from typing import NamedTuple

from tunesmith.errors import ModelError
from tunesmith.memory.families import Family, Routing
from tunesmith.memory.linears import Linear, mlp_linears
from tunesmith.memory.sizes import Config, refuse_missing, size

_OTHER_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")


class Experts(NamedTuple):
    """The routed experts of one layer: gated MLPs without biases, of which a router picks some for each token."""

    num_experts: int
    per_token: int
    width: int
    hidden: int
    shared_width: int
    """Of the expert that serves every token beside them, made of ordinary linear layers; 0 where there is none."""
    shared_gate: bool = False
    """That expert's answer is weighed."""
    weighs_in_float32: bool = False
    """The router's weights are float32 whatever the rest is, and so are answers once weighed."""
    packable: bool = False
    """Whether bitsandbytes can pack them.

    It replaces linear layers only (`replace_with_bnb_linear` of transformers 5), and there all of a layer's experts are
    two three-dimensional parameters, `gate_up_proj` and `down_proj`: they stay as they were loaded.
    """

    @property
    def expert_weights(self) -> int:
        """Of one expert: gate, up and down."""
        return 3 * self.hidden * self.width

    @property
    def weights(self) -> int:
        """Of all the layer's routed experts."""
        return self.num_experts * self.expert_weights

    @property
    def active_weights(self) -> int:
        """What one token passes through."""
        return self.per_token * self.expert_weights

    @property
    def router_weights(self) -> int:
        """A parameter of its own, no linear layer, so it is never packed either."""
        return self.num_experts * self.hidden


def read_experts(config: Config, family: Family) -> Experts | None:
    """None for a dense family. Raises ModelError for counts that are missing or contradict each other."""
    routing = family.routing
    if not routing:
        return None
    number = _count_key(config, routing)
    refuse_missing(config, (number, routing.width_key, "num_experts_per_tok"))
    count, per_token = size(config, number), size(config, "num_experts_per_tok")
    if per_token > count:
        raise ModelError(
            f"config.json says num_experts_per_tok {per_token} and {number} {count}: "
            "a token cannot pass through more experts than there are."
        )
    width = size(config, routing.width_key)
    return Experts(
        num_experts=count,
        per_token=per_token,
        width=width,
        hidden=size(config, "hidden_size"),
        shared_width=_shared_width(config, routing, width),
        shared_gate=routing.shared_gate,
        weighs_in_float32=routing.weighs_in_float32,
    )


def _count_key(config: Config, routing: Routing) -> str:
    """transformers 5 writes some families' count under another's name (`attribute_map` of its configurations)."""
    return next((key for key in (routing.num_key, *_OTHER_COUNTS) if key in config), routing.num_key)


def count_moe_layers(config: Config, routing: Routing, layers: int) -> int:
    """How many of the layers have experts. Raises ModelError where config.json is broken about it."""
    if routing.placing == "every layer":
        return layers
    if routing.placing == "after the dense ones":
        refuse_missing(config, ("first_k_dense_replace",))
        return max(0, layers - size(config, "first_k_dense_replace", least=0))
    step, dense = size(config, "decoder_sparse_step"), _dense_layers(config, layers)
    return sum((layer + 1) % step == 0 for layer in range(layers) if layer not in dense)


def shared_linears(config: Config, family: Family, experts: Experts) -> tuple[Linear, ...]:
    """The linear layers of the shared expert, and of what weighs it."""
    linears = mlp_linears(config, experts.hidden, experts.shared_width, family)
    if not (family.routing and family.routing.shared_gate):
        return linears
    return *linears, Linear("shared_expert_gate", experts.hidden, 1, False, "mlp_norm")


def _shared_width(config: Config, routing: Routing, width: int) -> int:
    if routing.shared_width_key:
        refuse_missing(config, (routing.shared_width_key,))
        return size(config, routing.shared_width_key)
    if routing.shared_num_key:
        refuse_missing(config, (routing.shared_num_key,))
        return 0 if config[routing.shared_num_key] is None else width * size(config, routing.shared_num_key, least=0)
    return 0


def _dense_layers(config: Config, layers: int) -> frozenset[int]:
    """The layers, counted from zero, that config.json keeps free of experts."""
    listed = config.get("mlp_only_layers")
    if listed is None:
        return frozenset()
    if not isinstance(listed, list | tuple) or any(
        type(layer) is not int or not 0 <= layer < layers for layer in listed
    ):
        raise ModelError(
            f"config.json says mlp_only_layers {listed!r}: it must be a list of layers from 0 to {layers - 1}; "
            "fetch the model's own file again."
        )
    return frozenset(listed)
