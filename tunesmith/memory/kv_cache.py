"""The KV cache of one sequence, on one device of a tensor-parallel group."""

from tunesmith.memory.shape import ModelShape


def kv_bytes_per_token(shape: ModelShape, tensor_parallel: int = 1, number_bytes: int = 2) -> int:
    """Bytes a token adds on each device, as long as no window is full.

    Heads are dealt out, and repeated where there are more devices than heads; the vector of latent attention belongs to
    all heads, so every device keeps it whole.
    """
    return shape.layers * _layer_bytes(shape, tensor_parallel, number_bytes)


def kv_bytes(shape: ModelShape, tokens: int, tensor_parallel: int = 1, number_bytes: int = 2, chunk: int = 1) -> int:
    """Bytes on each device for a sequence of `tokens`.

    A layer with a window keeps what the next tokens can still see: window - 1 before them, and the `chunk` of tokens
    that is computed at once (vLLM, `SlidingWindowSpec`; its blocks round that up).
    """
    each = _layer_bytes(shape, tensor_parallel, number_bytes)
    if not shape.window:
        return shape.layers * tokens * each
    seen = min(tokens, shape.window.tokens - 1 + chunk)
    return each * (shape.window.layers * seen + (shape.layers - shape.window.layers) * tokens)


def _layer_bytes(shape: ModelShape, tensor_parallel: int, number_bytes: int) -> int:
    if shape.latent:
        return number_bytes * (shape.latent.rank + shape.latent.rotated)
    heads = -(-shape.kv_heads // tensor_parallel)
    return number_bytes * 2 * heads * shape.head_dim
