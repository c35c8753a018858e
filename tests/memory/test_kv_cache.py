"""The KV cache against published figures, and against the caches of real models that ran."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory.cases import QWEN_7B, SMOLLM2
from tests.memory.real_models import measured
from tests.memory.tiny_configs import DENSE, MIXTURES, tiny_config
from tunesmith.memory import catalogue
from tunesmith.memory.constants import GIB
from tunesmith.memory.kv_cache import kv_bytes, kv_bytes_per_token
from tunesmith.memory.shape import ModelShape, Window


def known(repo: str) -> ModelShape:
    config = catalogue.lookup(repo)
    assert config
    return ModelShape.from_config(config)


LLAMA_8B, DEEPSEEK = known("meta-llama/Meta-Llama-3-8B"), known("deepseek-ai/DeepSeek-V3")
MISTRAL, GEMMA_2, GEMMA_3 = (
    known(repo) for repo in ("mistralai/Mistral-7B-v0.1", "google/gemma-2-9b", "google/gemma-3-1b-it")
)


@pytest.mark.parametrize(
    ("repo", "size"),
    [
        ("meta-llama/Meta-Llama-3-8B", 131_072),
        ("Qwen/Qwen2.5-7B-Instruct", 57_344),
        ("meta-llama/Llama-2-7b-hf", 524_288),
        ("deepseek-ai/DeepSeek-V3", 70_272),
    ],
)
def test_bytes_per_token_of_known_models(repo: str, size: int) -> None:
    """In 16 bits, as vLLM has them."""
    shape = known(repo)
    assert kv_bytes_per_token(shape) == kv_bytes(shape, 1) == 2 * shape.kv_values_per_token() == size
    assert kv_bytes_per_token(shape, number_bytes=1) == size // 2


def test_the_blocks_that_vllm_reported() -> None:
    # vLLM, issue 12330: 11.12 GiB for the cache of Llama-3-8B are 5691 blocks of 16, 11.12 sequences of 8192.
    block = 16 * kv_bytes_per_token(LLAMA_8B)
    assert 11.12 * GIB / block == pytest.approx(5691, rel=5e-4)
    assert 11.12 * GIB / kv_bytes(LLAMA_8B, 8192) == pytest.approx(11.12, abs=0.01)


@pytest.mark.parametrize(
    ("tensor_parallel", "shared"),
    [(1, 1), (2, 2), (4, 4), (8, 8), (16, 8), (32, 8)],
)
def test_heads_are_dealt_out_and_then_repeated(tensor_parallel: int, shared: int) -> None:
    assert kv_bytes_per_token(LLAMA_8B, tensor_parallel) == 131_072 // shared


def test_uneven_heads_are_rounded_up() -> None:
    assert kv_bytes_per_token(ModelShape.from_config(SMOLLM2), 2) == 30 * 2 * 2 * 64 * 2


def test_every_device_keeps_the_whole_of_a_latent_cache() -> None:
    assert kv_bytes_per_token(DEEPSEEK, 8) == kv_bytes_per_token(DEEPSEEK) == 61 * (512 + 64) * 2


@pytest.mark.parametrize(
    ("shape", "window"),
    [(MISTRAL, Window(4096, 32)), (GEMMA_2, Window(4096, 21)), (GEMMA_3, Window(512, 22)), (LLAMA_8B, None)],
)
def test_windows_of_known_models(shape: ModelShape, window: Window | None) -> None:
    assert shape.window == window


def test_mistral_stops_growing_at_its_window() -> None:
    full = kv_bytes(MISTRAL, 4096)
    assert full == 4096 * kv_bytes_per_token(MISTRAL)
    assert kv_bytes(MISTRAL, 32_768) == full
    assert kv_bytes(MISTRAL, 32_768, chunk=2048) == (4095 + 2048) * kv_bytes_per_token(MISTRAL)


def test_gemma_grows_on_in_its_other_layers() -> None:
    each = kv_bytes_per_token(GEMMA_3) // 26
    assert kv_bytes(GEMMA_3, 32_768) == each * (22 * 512 + 4 * 32_768)


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({**QWEN_7B}, None),
        ({**QWEN_7B, "use_sliding_window": True, "max_window_layers": 20}, Window(131_072, 8)),
        ({**QWEN_7B, "use_sliding_window": True, "max_window_layers": 28}, None),
        ({**SMOLLM2, "sliding_window": 64}, None),
        ({**SMOLLM2, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"] * 15}, Window(64, 15)),
        ({**SMOLLM2, "sliding_window": 64, "use_sliding_window": False, "layer_types": ["sliding_attention"] * 30}, None),
        ({**SMOLLM2, "model_type": "mistral"}, Window(4096, 30)),
        ({**SMOLLM2, "model_type": "mistral", "sliding_window": None}, None),
    ],
)  # fmt: skip
def test_a_window_counts_where_the_model_uses_it(config: dict[str, Any], window: Window | None) -> None:
    assert ModelShape.from_config(config).window == window


def test_the_largest_model_and_a_million_tokens() -> None:
    assert kv_bytes(known("meta-llama/Llama-3.1-405B"), 1_048_576, 8) == 126 * 2 * 128 * 2 * 1_048_576


@pytest.mark.env
def test_caches_of_models_that_ran() -> None:
    """Random tiny models of every family, 12 tokens at once; of a window, transformers keeps what is before the next."""
    configs = [tiny_config(kind, seed) for kind in DENSE + MIXTURES for seed in range(100, 104)]
    for config, truth in zip(configs, measured(configs, tokens=12), strict=True):
        shape = ModelShape.from_config(config)
        assert kv_bytes(shape, 12, number_bytes=1, chunk=0) == truth.cached, config


SHAPES = st.sampled_from([LLAMA_8B, DEEPSEEK, MISTRAL, GEMMA_2, GEMMA_3])


@given(SHAPES, st.integers(1, 2**20), st.integers(1, 64), st.integers(1, 8192))
def test_a_cache_never_shrinks_with_tokens_nor_grows_with_devices(
    shape: ModelShape, tokens: int, tensor_parallel: int, chunk: int
) -> None:
    held = kv_bytes(shape, tokens, tensor_parallel, chunk=chunk)
    assert held <= kv_bytes(shape, tokens + 1, tensor_parallel, chunk=chunk)
    assert held <= kv_bytes(shape, tokens, tensor_parallel, chunk=chunk + 1)
    assert held >= kv_bytes(shape, tokens, tensor_parallel + 1, chunk=chunk)
    assert held <= tokens * kv_bytes_per_token(shape, tensor_parallel)
