"""Whether a quantization group fits the widths of a model."""

from tunesmith.errors import GroupSizeError
from tunesmith.memory.shape import ModelShape
from tunesmith.specs.quantize import Gptq, Quantize

_USUAL = (16, 32, 64, 128, 256)


def check_group_size(quantize: Quantize, shape: ModelShape) -> None:
    """Raises GroupSizeError when a group does not divide the input of every quantized layer, with those that do."""
    if not isinstance(quantize, Gptq):
        return
    uneven = {linear.name: linear.width_in for linear in shape.linears if linear.width_in % quantize.group_size}
    if not uneven:
        return
    names = ", ".join(f"{name} ({width})" for name, width in uneven.items())
    raise GroupSizeError(
        f"quantize.group_size {quantize.group_size} does not divide the input width of {names}: "
        f"{_advice(dividing_groups(shape))}."
    )


def dividing_groups(shape: ModelShape) -> list[int]:
    """The usual group sizes that divide every quantized layer's input width."""
    return [size for size in _USUAL if all(linear.width_in % size == 0 for linear in shape.linears)]


def _advice(sizes: list[int]) -> str:
    if not sizes:
        return "no usual group size does, so set quantize.method to none"
    *rest, last = map(str, sizes)
    return f"choose {', '.join(rest)} or {last}" if rest else f"choose {last}"
