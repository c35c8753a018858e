"""Sliding windows: layers that look back a fixed number of tokens, and so need not remember more."""

from typing import NamedTuple

from tunesmith.errors import ModelError
from tunesmith.memory.families import Sliding
from tunesmith.memory.sizes import Config, size


class Window(NamedTuple):
    """The layers with a window; all of a model's windows are of one size."""

    tokens: int
    layers: int


def read_window(config: Config, sliding: Sliding, layers: int) -> Window | None:
    """None where every layer sees the whole sequence. Raises ModelError for a window or a layer list that is absurd.

    A `sliding_window` counts only where `use_sliding_window`, if it is there, agrees.
    """
    if not config.get("use_sliding_window", True) or config.get("sliding_window") is None:
        return None
    number = _count_listed(config, layers) if config.get("layer_types") else _count(config, sliding, layers)
    return Window(size(config, "sliding_window"), number) if number else None


def _count_listed(config: Config, layers: int) -> int:
    types = config["layer_types"]
    if not isinstance(types, list | tuple) or len(types) != layers:
        raise ModelError(
            f"config.json says num_hidden_layers {layers}, and its layer_types are not as many: "
            "fetch the model's own file again."
        )
    return sum(kind == "sliding_attention" for kind in types)


def _count(config: Config, sliding: Sliding, layers: int) -> int:
    match sliding:
        case "no layer":
            return 0
        case "every layer":
            return layers
        case "late layers":
            return max(0, layers - size(config, "max_window_layers", least=0))
        case "odd layers":
            return (layers + 1) // 2
        case "odd early layers":
            return (min(layers, size(config, "max_window_layers", least=0)) + 1) // 2
        case "all but every nth":
            return layers - layers // size(config, "sliding_window_pattern")
