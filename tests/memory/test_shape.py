"""Parameter counts against the published ones, and configurations that say nothing sensible."""

from typing import Any

import pytest

from tests.memory.cases import QWEN_7B, SMOLLM2
from tunesmith.errors import ModelError
from tunesmith.memory.shape import ModelShape


def _config(model_type: str, h: int, n: int, a: int, kv: int, f: int, v: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": h,
        "num_hidden_layers": n,
        "num_attention_heads": a,
        "num_key_value_heads": kv,
        "intermediate_size": f,
        "vocab_size": v,
        **more,
    }


PUBLISHED = {
    "Qwen2.5-7B": (QWEN_7B, 7_615_616_512),
    "SmolLM2-135M": (SMOLLM2, 134_515_008),
    "Llama-2-7B": (_config("llama", 4096, 32, 32, 32, 11008, 32000), 6_738_415_616),
    "Llama-3-8B": (_config("llama", 4096, 32, 32, 8, 14336, 128256), 8_030_261_248),
    "Llama-3.1-70B": (_config("llama", 8192, 80, 64, 8, 28672, 128256), 70_553_706_496),
    "Mistral-7B-v0.1": (_config("mistral", 4096, 32, 32, 8, 14336, 32000), 7_241_732_096),
    "Qwen2.5-0.5B": (_config("qwen2", 896, 24, 14, 2, 4864, 151936, tie_word_embeddings=True), 494_032_768),
    "Qwen3-0.6B": (
        _config("qwen3", 1024, 28, 16, 8, 3072, 151936, head_dim=128, tie_word_embeddings=True),
        596_049_920,
    ),
    "Qwen3-8B": (_config("qwen3", 4096, 36, 32, 8, 12288, 151936, head_dim=128), 8_190_735_360),
    "Gemma-2B": (_config("gemma", 2048, 18, 8, 1, 16384, 256000, head_dim=256), 2_506_172_416),
    "Gemma-2-2B": (_config("gemma2", 2304, 26, 8, 4, 9216, 256000, head_dim=256), 2_614_341_888),
    "Gemma-3-1B": (_config("gemma3_text", 1152, 26, 4, 1, 6912, 262144, head_dim=256), 999_885_952),
    "Phi-3-mini": (_config("phi3", 3072, 32, 32, 32, 8192, 32064), 3_821_079_552),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    config, params = PUBLISHED[name]
    assert ModelShape.from_config(config).params == params


def test_the_key_value_cache_of_known_models() -> None:
    # Bytes per token in 16 bits, as vLLM reports them.
    for name, size in {"Llama-3-8B": 131072, "Qwen2.5-7B": 57344, "Llama-2-7B": 524288}.items():
        assert 2 * ModelShape.from_config(PUBLISHED[name][0]).kv_values_per_token() == size


def test_text_models_are_found_inside_multimodal_configurations() -> None:
    nested = {"model_type": "gemma3", "text_config": PUBLISHED["Gemma-3-1B"][0]}
    assert ModelShape.from_config(nested).params == PUBLISHED["Gemma-3-1B"][1]


def test_an_unknown_architecture_is_estimated_as_a_llama_and_says_so() -> None:
    shape = ModelShape.from_config({**SMOLLM2, "model_type": "newcomer"})
    assert shape.params == 134_515_008
    assert shape.note == "newcomer is not a known architecture: estimated as a Llama of its sizes"
    assert ModelShape.from_config(SMOLLM2).note is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": -576}, "config.json says hidden_size -576: it must be a whole number from 1 to 1000000"),
        ({"vocab_size": "many"}, "vocab_size 'many'"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
        ({"num_hidden_layers": True}, "num_hidden_layers True"),
        ({"num_key_value_heads": 4}, "num_attention_heads 9 and num_key_value_heads 4"),
        ({"num_attention_heads": 7, "num_key_value_heads": 7}, "which do not divide, and no head_dim"),
        ({"num_experts": 64}, "llama is a mixture of experts"),
        ({"quantization_config": {"bits": 4}}, "This llama is quantized already"),
    ],
)
def test_absurd_configurations_are_refused_in_a_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as raised:
        ModelShape.from_config({**SMOLLM2, **changes})
    assert message in raised.value.message


def test_missing_sizes_are_named() -> None:
    with pytest.raises(ModelError, match="this gpt2 model lacks hidden_size, num_hidden_layers, num_attention_heads"):
        ModelShape.from_config({"model_type": "gpt2", "n_embd": 768, "vocab_size": 50257})
