"""Whether a quantization group fits the widths of a model."""

from tunesmith.errors import GroupSizeError
from tunesmith.memory.shape import ModelShape
from tunesmith.specs.quantize import Gptq, Quantize

_KNOWN = (32, 64, 128)
"""What both can do: gptqmodel, which makes them and takes more, and vLLM's kernels, which must load them."""


def check_group_size(quantize: Quantize, shape: ModelShape) -> None:
    """Raises GroupSizeError, with the sizes that would do, unless groups are of a known size and divide every layer."""
    if not isinstance(quantize, Gptq):
        return
    uneven = [(name, width) for name, width in _widths(shape) if width % quantize.group_size]
    if not uneven and quantize.group_size in _KNOWN:
        return
    names = ", ".join(f"{name} ({width})" for name, width in uneven)
    fault = f"does not divide the input width of {names}" if uneven else "is not one that GPTQ kernels know"
    raise GroupSizeError(f"quantize.group_size {quantize.group_size} {fault}: {_advice(dividing_groups(shape))}.")


def dividing_groups(shape: ModelShape) -> list[int]:
    """The known group sizes that divide every quantized layer's input width."""
    return [size for size in _KNOWN if all(width % size == 0 for _, width in _widths(shape))]


def _widths(shape: ModelShape) -> list[tuple[str, int]]:
    """Quantized layers with their input widths, each once, those of routed experts among them."""
    found = [(linear.name, linear.width_in) for block in shape.blocks for linear in block.linears]
    if shape.experts:
        found += [("experts' up_proj", shape.experts.hidden), ("experts' down_proj", shape.experts.width)]
    return list(dict.fromkeys(found))


def _advice(sizes: list[int]) -> str:
    if not sizes:
        return "no known group size does, so set quantize.method to none"
    *rest, last = map(str, sizes)
    return f"choose {', '.join(rest)} or {last}" if rest else f"choose {last}"
