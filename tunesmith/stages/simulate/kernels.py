"""What a GPU's kernels allocate where a CPU's differ, for a step that is followed on fake CPU tensors.

From aten/src/ATen/native/transformers/cuda (attention.cu, attention_backward.cu, flash_attn/flash_api.cpp,
mem_eff_attention/kernel_backward.h) of torch 2.13, and bitsandbytes/backends/cuda/ops.py 0.50.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
import transformers.masking_utils
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from tunesmith.memory.segments import rounded_up
from tunesmith.stages.simulate.tracing import Substitutes, answered

Kernels = Literal["cuda", "cpu"]

FLASH_LIBRARY = "tunesmith_library"
"""The flash-attention library's stand-in; were "flash" in its name, transformers would import the library."""

_FLASH_WIDTH = 256
"""Widest head of the flash kernels."""


class _Flash(torch.autograd.Function):  # type: ignore[misc]
    """FlashAttention-2 (arXiv 2307.08691) with grouped queries; shapes (rows, heads, tokens, width)."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = _like_batch(query)
        log_sum = query.new_empty(query.shape[:3], dtype=torch.float32)
        context.save_for_backward(query, key, value, out, log_sum)
        return out

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = context.saved_tensors
        rows, heads, length, width = query.shape
        made = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        rounded = rounded_up(length, 128)
        sums = query.new_empty(rows, heads, rounded, dtype=torch.float32)
        accumulated = query.new_empty(rows, heads, rounded, rounded_up(width, 32), dtype=torch.float32)
        per_query_head = [_like_batch(query) for _ in range(2)] if key.shape[1] < heads else []
        del sums, accumulated, per_query_head
        return made


class _Efficient(torch.autograd.Function):  # type: ignore[misc]
    """Memory-efficient attention (xFormers') with a bias of shape (rows, 1, tokens, tokens), and as many keys' heads
    as queries'.
    """

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        rows, heads, length, _ = query.shape
        out = query.new_empty(rows, length, heads, value.shape[-1]).transpose(1, 2)
        log_sum = query.new_empty(rows, heads, rounded_up(length, 32), dtype=torch.float32)
        context.save_for_backward(query, key, value, bias, out, log_sum)
        return out

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, _, _, _ = context.saved_tensors
        made = _like_batch(query), _like_batch(key), _like_batch(value)
        delta = query.new_empty(query.shape[:3], dtype=torch.float32)
        accumulated = query.new_empty(query.shape, dtype=torch.float32) if query.dtype != torch.float32 else None
        del delta, accumulated
        return *made, None


def _like_batch(tensor: Tensor) -> Tensor:
    """Empty, of the same shape, laid out as (rows, tokens, heads, width): the kernels' own layout."""
    rows, heads, length, width = tensor.shape
    return tensor.new_empty(rows, length, heads, width).transpose(1, 2)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """torch's scaled_dot_product_attention as it chooses on a GPU: flash, and memory-efficient where there is a mask or
    values are not as wide as keys.
    """
    query, key, value = (_autocast(tensor) for tensor in (query, key, value))
    is_even = query.shape[-1] == value.shape[-1] <= _FLASH_WIDTH
    if attn_mask is None and query.dtype != torch.float32 and is_even:
        return _Flash.apply(query, key, value)
    if enable_gqa:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    return _Efficient.apply(query, key, value, _bias(attn_mask, query.dtype))


def _bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), float("-inf"))


def _library_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """As transformers calls flash-attn: no mask for rows without padding; returns (rows, tokens, heads, width)."""
    query, key, value = (_in_16_bits(tensor) for tensor in (query, key, value))
    return _Flash.apply(query, key, value).transpose(1, 2), None


def _autocast(tensor: Tensor) -> Tensor:
    return tensor.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else tensor


def _in_16_bits(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.dtype == torch.float32 else tensor


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """A GPU keeps a mask of one byte per number, a CPU the factors."""
    return torch.native_dropout(input, p, training)[0] if training and p else input


def _layer_norm(
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """In float32 under a GPU's autocast; a CPU's leaves it as it is."""
    tensors = [input, weight, bias]
    if torch.is_autocast_enabled("cpu"):
        tensors = [None if tensor is None else tensor.float() for tensor in tensors]
    return torch.layer_norm(tensors[0], normalized_shape, tensors[1], tensors[2], eps)


def _unpacked_linear(
    input: Tensor,
    packed: Tensor,
    shape: list[int],
    absmax: Tensor,
    blocksize: int,
    quant_type: str,
    bias: Tensor | None = None,
    absmax_8bit: Tensor | None = None,
    absmax_code: Tensor | None = None,
    absmax_offset: Tensor | None = None,
) -> Tensor:
    """bitsandbytes' 4-bit product for more than a few hundred tokens, on either device: unpack, then multiply."""
    ops = torch.ops.bitsandbytes
    if absmax_8bit is not None:
        absmax = ops.dequantize_blockwise(absmax_8bit, absmax, absmax_code, 256, torch.float32) + absmax_offset
    weight = ops.dequantize_4bit(packed, absmax, blocksize, quant_type, shape, input.dtype)
    return functional.linear(input, weight, bias)


def _grouped_product(left: Tensor, right: Tensor, offs: Tensor | None = None, *_: Any) -> Tensor:
    """One product per expert of rows sorted by expert: (S, k) by (experts, k, n), or for the weights' gradient (k, S)
    by (S, n). A fake tensor knows it in bfloat16 alone; in float32 torch goes from expert to expert, into one result
    (aten/src/ATen/native/GroupedMMUtils.h).
    """
    if offs is not None and left.dim() == right.dim() == 2:
        return left.new_empty(offs.shape[0], left.shape[0], right.shape[1])
    return left.new_empty(*left.shape[:-1], right.shape[-1])


def substitutes() -> Substitutes:
    """Operators that are no single kernel, or whose answer a fake tensor does not have."""
    found: dict[Any, Any] = {
        torch.ops.aten._local_scalar_dense.default: answered,
        torch.ops.aten._grouped_mm.default: _grouped_product,
    }
    if hasattr(torch.ops.bitsandbytes, "gemm_4bit"):
        found[torch.ops.bitsandbytes.gemm_4bit.default] = _unpacked_linear
    return found


@contextmanager
def kernels_of(kernels: Kernels) -> Iterator[None]:
    """Within, fake CPU tensors are computed with as on that device."""
    with ExitStack() as stack:
        # On fake position ids transformers cannot see that a row is one sequence, and would make a mask for it.
        stack.enter_context(_replaced(transformers.masking_utils, "find_packed_sequence_indices", lambda _: None))
        if kernels == "cuda":
            stack.enter_context(_replaced(functional, "scaled_dot_product_attention", _attention))
            stack.enter_context(_replaced(functional, "dropout", _dropout))
            stack.enter_context(_replaced(functional, "layer_norm", _layer_norm))
            # PEFT's 4-bit layers ask without naming a device, which means the GPU.
            asked = torch.is_autocast_enabled
            stack.enter_context(_replaced(torch, "is_autocast_enabled", lambda device="cpu": asked(device)))
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


AttentionInterface.register(FLASH_LIBRARY, _library_attention)
