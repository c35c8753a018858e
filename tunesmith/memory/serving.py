"""The server's memory: weights, and what is left of the device for the KV cache (PagedAttention, arXiv 2309.06180)."""

from bisect import bisect_right
from typing import NamedTuple

from tunesmith.memory.constants import (
    CUDA_CONTEXT_BYTES,
    CUDA_GRAPHS_BYTES,
    GIB,
    SERVER_BATCH_TOKENS,
    SERVER_PROCESS_BYTES,
    SERVER_SEQUENCES,
    SERVER_UTILIZATION,
)
from tunesmith.memory.kv_cache import kv_bytes, kv_bytes_per_token
from tunesmith.memory.parallel import NCCL_BYTES
from tunesmith.memory.phases import block_width, served_bytes, served_precision
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.training import Items, total
from tunesmith.specs.quantize import Quantize
from tunesmith.specs.serve import Serve

_BLOCK_TOKENS = 16
"""Tokens in one of vLLM's cache blocks."""
_LONGEST = 1 << 24
"""Tokens beyond which no sequence is looked for."""


class CacheRoom(NamedTuple):
    """What the KV cache holds."""

    tokens: int
    sequences: int
    """Full-length ones among them."""


def serve_items(shape: ModelShape, quantize: Quantize, spec: Serve, max_model_len: int, device: str) -> Items:
    """vLLM, on each device: one full sequence of KV cache must fit; on a CPU the cache has the size asked for."""
    parallel = tensor_parallel(spec)
    weights = {f"weights ({served_precision(quantize)})": -(-served_bytes(shape, quantize) // parallel)}
    if device == "cpu":
        return {"process": SERVER_PROCESS_BYTES, **weights, "KV cache": spec.kv_cache_gib * GIB}
    cache = kv_bytes(shape, max_model_len, parallel, chunk=SERVER_BATCH_TOKENS)
    talking = {"NCCL": NCCL_BYTES} if parallel > 1 else {}
    return weights | {f"KV cache (one sequence of {max_model_len})": cache, **_beside(shape), **talking}


def cache_room(
    shape: ModelShape, quantize: Quantize, spec: Serve, max_model_len: int, memory_bytes: int, device: str
) -> CacheRoom:
    """Tokens of KV cache that fit beside the weights, in whole blocks; as vLLM counts after its start-up profile."""
    room = spec.kv_cache_gib * GIB
    parallel = tensor_parallel(spec)
    if device == "cuda":
        items = serve_items(shape, quantize, spec, 0, device)
        room = server_share(spec, memory_bytes, device) - CUDA_CONTEXT_BYTES - total(items)
    tokens = max(room, 0) // (_BLOCK_TOKENS * kv_bytes_per_token(shape, parallel)) * _BLOCK_TOKENS
    return CacheRoom(tokens, max(room, 0) // kv_bytes(shape, max_model_len, parallel, chunk=SERVER_BATCH_TOKENS))


def server_share(spec: Serve, memory_bytes: int, device: str) -> int:
    """Bytes of a device that vLLM takes at most, cache and all; on a CPU it knows no such limit."""
    return int(utilization(spec) * memory_bytes) if device == "cuda" else memory_bytes


def longest_sequence(shape: ModelShape, spec: Serve, room_bytes: int) -> int:
    """Tokens of the longest sequence whose KV cache takes no more than that on each device, in whole blocks."""
    parallel = tensor_parallel(spec)
    found = bisect_right(
        range(1, _LONGEST), room_bytes, key=lambda tokens: kv_bytes(shape, tokens, parallel, chunk=SERVER_BATCH_TOKENS)
    )
    return found // _BLOCK_TOKENS * _BLOCK_TOKENS


def tensor_parallel(spec: Serve) -> int:
    """Devices that share one copy of the model."""
    return int(_argument(spec, "tensor-parallel-size", 1))


def utilization(spec: Serve) -> float:
    """Share of a GPU that vLLM takes."""
    return float(_argument(spec, "gpu-memory-utilization", SERVER_UTILIZATION))


def _beside(shape: ModelShape) -> Items:
    """What the start-up profile, at its largest batch, leaves no room for."""
    return {
        "one block's activations": 2 * SERVER_BATCH_TOKENS * block_width(shape),
        "logits of the start-up profile": 10 * SERVER_SEQUENCES * shape.vocab,
        "CUDA graphs": CUDA_GRAPHS_BYTES,
    }


def _argument(spec: Serve, name: str, default: float) -> float:
    """One of the engine's own arguments, however it is spelt; what is no number is the engine's to refuse."""
    value = spec.engine_args.get(name, spec.engine_args.get(name.replace("-", "_"), default))
    try:
        return float(value)
    except ValueError:
        return default
