"""What a server has room for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.memory.cases import QWEN_7B
from tunesmith.memory import catalogue
from tunesmith.memory.constants import GIB
from tunesmith.memory.kv_cache import kv_bytes
from tunesmith.memory.serving import cache_room, serve_items
from tunesmith.memory.shape import ModelShape
from tunesmith.specs.quantize import Gptq, NoQuantization
from tunesmith.specs.serve import Vllm

QWEN = ModelShape.from_config(QWEN_7B)
PLAIN, PACKED = NoQuantization(), Gptq()


def room(gib: float, length: int = 4096, quantize: Any = PACKED, **arguments: Any) -> tuple[int, int]:
    spec = Vllm(engine_args={name.replace("_", "-"): value for name, value in arguments.items()})
    return cache_room(QWEN, quantize, spec, length, int(gib * GIB), "cuda")


def test_what_the_weights_leave_is_cache_in_whole_blocks() -> None:
    tokens, sequences = room(24)
    assert tokens % 16 == 0
    assert 200_000 < tokens < 300_000
    assert sequences == tokens // 4096


def test_packed_weights_leave_more_than_plain_ones() -> None:
    assert room(24)[0] - room(24, quantize=PLAIN)[0] == pytest.approx(9.0 * GIB / 57_344, rel=0.05)


@given(st.floats(4, 200), st.floats(0.1, 0.9), st.integers(16, 32_768))
def test_more_memory_never_holds_fewer_tokens(gib: float, utilization: float, length: int) -> None:
    small, large = (room(gib, length, gpu_memory_utilization=share) for share in (utilization, utilization + 0.05))
    assert small <= large
    assert small[1] * length <= small[0] + 16


def test_a_server_that_holds_no_sequence_says_zero() -> None:
    assert room(8, quantize=PLAIN) == (0, 0)


def test_a_cpu_has_the_cache_that_is_asked_for() -> None:
    tokens, _ = cache_room(QWEN, PACKED, Vllm(kv_cache_gib=2), 1024, 64 * GIB, "cpu")
    assert tokens == 2 * GIB // 57_344 // 16 * 16


def test_tensor_parallel_shares_weights_and_heads() -> None:
    whole, halved = (
        serve_items(QWEN, PLAIN, Vllm(engine_args={"tensor-parallel-size": n}), 4096, "cuda") for n in (1, 2)
    )
    for item in ("weights (bf16)", "KV cache (one sequence of 4096)"):
        assert halved[item] == pytest.approx(whole[item] / 2)


def test_windows_bound_a_sequence() -> None:
    config = catalogue.lookup("mistralai/Mistral-7B-v0.1")
    assert config
    shape = ModelShape.from_config(config)
    items = serve_items(shape, PLAIN, Vllm(), 32_768, "cuda")
    assert items["KV cache (one sequence of 32768)"] < kv_bytes(shape.model_copy(update={"window": None}), 32_768) / 4
