"""Which quantization groups a model's layers can be cut into, read from its config.json before any weight is."""

from collections.abc import Mapping
from math import gcd
from typing import Any

from tunesmith.errors import GroupSizeError

KNOWN = (16, 32, 64, 128, 256, 512, 1024)
"""What gptqmodel takes; vLLM's kernels take 32, 64 and 128 of them."""


def check_group_size(config: Mapping[str, Any], group_size: int) -> None:
    """Raises GroupSizeError, naming the sizes that would do, when `group_size` does not divide every layer's width."""
    widths = layer_widths(config)
    fitting = [size for size in KNOWN if gcd(*widths) % size == 0]
    if group_size in fitting:
        return
    unfit = sorted({width for width in widths if width % group_size}) or sorted(set(widths))
    advice = f"set quantize.group_size to {_any_of(fitting)}" if fitting else "serve it with quantize.method: none"
    raise GroupSizeError(
        f"A group size of {group_size} does not divide the model's width of {_any_of(unfit)}: {advice}."
        if any(width % group_size for width in widths)
        else f"A group size of {group_size} is not one that GPTQ kernels know: {advice}."
    )


def layer_widths(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Input widths of the linear layers a config.json describes: the model's own, the attention's, the MLP's."""
    config = config.get("text_config", config)
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    experts = config.get("moe_intermediate_size")
    inner = config.get("intermediate_size") or 4 * hidden
    return (hidden, heads * head, experts or inner)


def _any_of(numbers: list[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last
