"""Parameter counts against the published and the real ones, and configurations that say nothing sensible."""

from typing import Any

import pytest

from tests.memory.cases import QWEN_7B, SMOLLM2
from tests.memory.real_models import Measured, measured
from tests.memory.tiny_configs import DENSE, MIXTURES, tiny_config
from tunesmith.errors import ModelError
from tunesmith.memory import catalogue
from tunesmith.memory.families import FAMILIES
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

MIXTRAL = _config("mixtral", 4096, 32, 32, 8, 14336, 32000, num_local_experts=8, num_experts_per_tok=2)
QWEN_MOE = _config(
    "qwen3_moe", 2048, 48, 32, 4, 6144, 151936, head_dim=128, num_experts=128, num_experts_per_tok=8,
    moe_intermediate_size=768,
)  # fmt: skip
DEEPSEEK = _config(
    "deepseek_v3", 7168, 61, 128, 128, 18432, 129280, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128,
    qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8,
    moe_intermediate_size=2048, first_k_dense_replace=3,
)  # fmt: skip
TINY = [tiny_config(kind, seed) for kind in DENSE + MIXTURES for seed in range(5)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    config, params = PUBLISHED[name]
    assert ModelShape.from_config(config).params == params


def test_text_models_are_found_inside_multimodal_configurations() -> None:
    nested = {"model_type": "gemma3", "text_config": PUBLISHED["Gemma-3-1B"][0]}
    assert ModelShape.from_config(nested).params == PUBLISHED["Gemma-3-1B"][1]


def test_an_unknown_architecture_is_estimated_as_a_llama_and_says_so() -> None:
    shape = ModelShape.from_config({**SMOLLM2, "model_type": "newcomer"})
    assert shape.params == 134_515_008
    assert shape.note == "newcomer is not a known architecture: estimated as a Llama of its sizes"
    assert ModelShape.from_config(SMOLLM2).note is None


def test_the_language_model_of_a_wrapper_may_leave_out_what_its_class_knows() -> None:
    # The text_config of google/gemma-3-4b-it, whose published count has a vision tower and a projector in it.
    inner = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    }
    shape = ModelShape.from_config({"model_type": "gemma3", "text_config": inner, "vision_config": {}})
    assert shape.params == 4_300_079_472 - 416_866_032 - 2_950_272
    assert (shape.heads, shape.kv_heads, shape.vocab) == (8, 4, 262208)


def test_what_a_wrapper_says_of_the_whole_counts() -> None:
    assert ModelShape.from_config({"text_config": QWEN_7B | {"tie_word_embeddings": True}}).tied
    untold = {key: value for key, value in QWEN_7B.items() if key != "tie_word_embeddings"}
    assert ModelShape.from_config({"tie_word_embeddings": True, "text_config": untold}).tied
    with pytest.raises(ModelError, match="quantized already"):
        ModelShape.from_config({"quantization_config": {"bits": 4}, "text_config": QWEN_7B})


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        (MIXTRAL, 46_702_792_704, 12_879_925_248),
        (QWEN_MOE, 30_532_122_624, 3_353_032_704),
        # The hub counts 14848 more: a bias for each expert's routing, which is a buffer in transformers 5.
        (DEEPSEEK, 671_026_419_200 - 58 * 256, 37_552_282_624),
    ],
)
def test_mixtures_have_the_published_total_and_active_parameters(
    config: dict[str, Any], total: int, active: int
) -> None:
    shape = ModelShape.from_config(config)
    assert (shape.params, shape.active_params) == (total, active)


def test_the_parts_of_a_mixture() -> None:
    shape = ModelShape.from_config(DEEPSEEK)
    assert (shape.dense_layers, shape.moe_layers) == (3, 58)
    dense, moe = shape.blocks
    assert [linear.name for linear in dense.linears] == [linear.name for linear in shape.linears]
    assert {linear.width_out for linear in dense.linears if linear.name == "up_proj"} == {18432}
    assert {linear.width_out for linear in moe.linears if linear.name == "up_proj"} == {2048}
    experts = shape.experts
    assert experts and (experts.num_experts, experts.per_token, experts.width, experts.shared_width) == (
        256,
        8,
        2048,
        2048,
    )
    assert experts.router_weights == 256 * 7168 and not experts.packable
    assert shape.expert_weights == 58 * 256 * 3 * 7168 * 2048
    assert shape.layer_params == moe.params > dense.params


def test_the_number_of_experts_has_a_second_name() -> None:
    """As transformers 5 writes config.json."""
    config = dict(catalogue.lookup("Qwen/Qwen3-30B-A3B") or {})
    renamed = {("num_local_experts" if key == "num_experts" else key): value for key, value in config.items()}
    assert renamed != config and ModelShape.from_config(renamed) == ModelShape.from_config(config)


def test_a_mixture_without_dense_layers_has_the_linear_layers_of_its_attention() -> None:
    shape = ModelShape.from_config(MIXTRAL)
    assert shape.linears == shape.moe_linears
    assert [linear.name for linear in shape.linears] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert shape.linear_weights == 32 * 4096 * (4096 + 1024 + 1024 + 4096)


def test_dense_models_have_one_kind_of_block() -> None:
    shape = ModelShape.from_config(QWEN_7B)
    (block,) = shape.blocks
    assert (block.num_layers, block.experts, shape.moe_layers, shape.experts) == (28, None, 0, None)
    assert shape.active_params == shape.params
    assert shape.linear_weights == 28 * block.linear_weights


@pytest.fixture(scope="module")
def real() -> list[Measured]:
    return measured(TINY)


@pytest.mark.env
@pytest.mark.parametrize("index", range(len(TINY)), ids=lambda index: f"{TINY[index]['model_type']}-{index % 5}")
def test_random_shapes_are_those_of_the_real_classes(real: list[Measured], index: int) -> None:
    """To the number: all parameters, those that bitsandbytes packs, those of experts, and the windows."""
    shape, truth = ModelShape.from_config(TINY[index]), real[index]
    assert shape.params == truth.params
    assert shape.linear_weights == truth.packed
    assert shape.expert_weights == truth.routed
    assert ([shape.window.tokens] * shape.window.layers if shape.window else []) == truth.windows


def test_every_family_is_held_against_its_real_class() -> None:
    assert set(DENSE + MIXTURES) == set(FAMILIES)


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


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (MIXTRAL, {"num_local_experts": -8}, "num_local_experts -8: it must be a whole number from 1 to 100000"),
        (MIXTRAL, {"num_experts_per_tok": 9}, "num_experts_per_tok 9 and num_local_experts 8: a token cannot pass"),
        (QWEN_MOE, {"num_experts": 10**12}, "num_experts 1000000000000"),
        (QWEN_MOE, {"moe_intermediate_size": "768"}, "moe_intermediate_size '768'"),
        (QWEN_MOE, {"decoder_sparse_step": 0}, "decoder_sparse_step 0"),
        (QWEN_MOE, {"mlp_only_layers": [48]}, "mlp_only_layers [48]: it must be a list of layers from 0 to 47"),
        (QWEN_MOE, {"mlp_only_layers": 3}, "mlp_only_layers 3"),
        (DEEPSEEK, {"kv_lora_rank": 0}, "kv_lora_rank 0"),
        (DEEPSEEK, {"first_k_dense_replace": -1}, "first_k_dense_replace -1: it must be a whole number from 0"),
        (DEEPSEEK, {"n_shared_experts": 1.5}, "n_shared_experts 1.5"),
        (PUBLISHED["Gemma-3-1B"][0], {"sliding_window": 0}, "sliding_window 0"),
        (PUBLISHED["Gemma-3-1B"][0], {"sliding_window_pattern": 0}, "sliding_window_pattern 0"),
        (PUBLISHED["Gemma-3-1B"][0], {"layer_types": ["full_attention"]}, "num_hidden_layers 26, and its layer_types"),
        (QWEN_7B, {"text_config": [1]}, "text_config in config.json is no mapping"),
        ({**SMOLLM2, "model_type": "olmoe"}, {"num_experts": 64}, "olmoe is a mixture of experts of a kind whose"),
        ({**SMOLLM2, "model_type": "ernie"}, {"moe_num_experts": [64, 64]}, "ernie is a mixture of experts"),
    ],
)
def test_absurd_experts_and_windows_are_refused_in_a_sentence(
    config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError) as raised:
        ModelShape.from_config({**config, **changes})
    assert message in raised.value.message


@pytest.mark.parametrize("key", ["num_experts", "moe_intermediate_size", "num_experts_per_tok"])
def test_missing_sizes_of_experts_are_named(key: str) -> None:
    config = {name: value for name, value in QWEN_MOE.items() if name != key}
    with pytest.raises(ModelError, match=f"this qwen3_moe model lacks {key}"):
        ModelShape.from_config(config)


def test_dense_models_of_families_that_know_experts_pass() -> None:
    config = {**SMOLLM2, "num_experts": 0, "num_local_experts": 1, "num_experts_per_tok": None}
    assert ModelShape.from_config(config).params == 134_515_008


def test_missing_sizes_are_named() -> None:
    with pytest.raises(ModelError, match="this gpt2 model lacks hidden_size, num_hidden_layers, num_attention_heads"):
        ModelShape.from_config({"model_type": "gpt2", "n_embd": 768, "vocab_size": 50257})
