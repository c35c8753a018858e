"""What transformers and bitsandbytes make of configurations: the truth that shapes are held against."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tests.rooms import in_environment

MEASURE = """
import json, sys
import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, DynamicCache
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.base import get_keys_to_not_convert

def cached(config, tokens):
    torch.manual_seed(0)
    model, cache = AutoModelForCausalLM.from_config(config), DynamicCache(config=config)
    model(torch.randint(config.vocab_size, (1, tokens)), past_key_values=cache)
    return sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)

def measure(raw, tokens):
    config = AutoConfig.for_model(**raw)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        params = sum(parameter.numel() for parameter in model.parameters())
        routed = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 3)
        replace_with_bnb_linear(model, get_keys_to_not_convert(model), BitsAndBytesConfig(load_in_4bit=True))
    packed = [module for module in model.modules() if isinstance(module, Linear4bit)]
    weights = sum(module.in_features * module.out_features for module in packed)
    windows = [layer.sliding_window for layer in DynamicCache(config=config).layers if layer.is_sliding]
    return params, weights, routed, windows, cached(config, tokens) if tokens else 0

torch.set_num_threads(1)
print(json.dumps([measure(raw, int(sys.argv[2])) for raw in json.loads(sys.argv[1])]))
"""


class Measured(NamedTuple):
    """Of one model."""

    params: int
    packed: int
    """Weights that load_in_4bit packs."""
    routed: int
    """Weights of routed experts, which it does not."""
    windows: list[int]
    """Of the layers that have one."""
    cached: int
    """Numbers in the KV cache after `tokens` tokens."""


def measured(configs: Iterable[Mapping[str, Any]], tokens: int = 0) -> list[Measured]:
    """Builds each model without its weights, and runs it when there are `tokens`; one process for all of them."""
    plain = [{key: value for key, value in config.items() if not key.startswith("_")} for config in configs]
    return [Measured(*numbers) for numbers in in_environment("train", MEASURE, json.dumps(plain), str(tokens))]
