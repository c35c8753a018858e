"""Whether the server loads what the quantizer makes: the rules of vLLM 0.32 for GPTQ, on a GPU and on a CPU.

They are in its `auto_gptq.py`, `gptq_utils.py`, and `kernels/linear/mixed_precision/{marlin,cpu}.py`.
"""

from tunesmith.artifacts import Device
from tunesmith.errors import RecipeError
from tunesmith.memory.bill import DeviceKind
from tunesmith.memory.serving import tensor_parallel
from tunesmith.memory.shape import ModelShape
from tunesmith.specs.quantize import Gptq
from tunesmith.specs.recipe import Recipe

_OUTPUT_MULTIPLE = 32
"""What the CPU kernels want of a layer's output width."""
_TOO_OLD = ("V100", "TITAN V")
"""Compute capability 7.0, which vLLM still runs on, and its GPTQ kernels do not."""


def check_loadable(recipe: Recipe, shape: ModelShape, kind: DeviceKind, device: Device) -> None:
    """Raises RecipeError with what to set instead where vLLM on that device refuses the quantized model."""
    if objection := loading_objection(recipe, shape, kind, device):
        raise RecipeError(objection)


def loading_objection(recipe: Recipe, shape: ModelShape, kind: DeviceKind, device: Device) -> str | None:
    """None, or the same as a sentence."""
    quantize = recipe.quantize
    if not isinstance(quantize, Gptq):
        return None
    return _on_any(quantize) or (
        _on_cpu(quantize, shape) if kind == "cpu" else _on_cuda(recipe, quantize, shape, device)
    )


def _on_any(quantize: Gptq) -> str | None:
    if quantize.desc_act:
        return "quantize.desc_act: vLLM no longer loads columns in the order of their activation: leave it out."
    return None


def _on_cpu(quantize: Gptq, shape: ModelShape) -> str | None:
    if quantize.bits != 4:
        return (
            f"quantize.bits {quantize.bits}: vLLM on a CPU loads GPTQ in 4 bits only: set quantize.bits to 4, "
            "or quantize.method to none."
        )
    uneven = sorted({width for width in _output_widths(shape) if width % _OUTPUT_MULTIPLE})
    if uneven:
        return (
            f"quantize.method gptq: vLLM on a CPU loads layers whose output width is a multiple of {_OUTPUT_MULTIPLE}, "
            f"and this model has {', '.join(map(str, uneven))}: set quantize.method to none."
        )
    return None


def _on_cuda(recipe: Recipe, quantize: Gptq, shape: ModelShape, device: Device) -> str | None:
    if any(name in device.name for name in _TOO_OLD):
        return (
            f"quantize.method gptq: vLLM has no GPTQ kernels for a {device.name}: set quantize.method to none, "
            "or serve on a newer card."
        )
    parts = tensor_parallel(recipe.serve)
    # Only the layers after attention and MLP are split along the width that has groups.
    split = {one.name: one.width_in for one in shape.linears if one.source in ("attention", "mlp")}
    torn = [name for name, width in split.items() if width % (parts * quantize.group_size)]
    if parts > 1 and torn:
        return (
            f"quantize.group_size {quantize.group_size}: tensor-parallel-size {parts} would split {' and '.join(torn)} "
            "within a group: choose a smaller group, or fewer parts."
        )
    return None


def _output_widths(shape: ModelShape) -> list[int]:
    """As vLLM joins layers: queries, keys and values; gate and up. What weighs a shared expert stays as it is."""
    widths: list[int] = []
    for block in shape.blocks:
        kept = [one for one in block.linears if one.width_out > 1]
        for source in ("attention_norm", "mlp_norm"):
            widths.append(sum(one.width_out for one in kept if one.source == source))
        widths += [one.width_out for one in kept if one.source not in ("attention_norm", "mlp_norm")]
    return widths
