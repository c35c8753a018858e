"""What the phases around training need: merging, quantizing."""

from tunesmith.memory.constants import CPU_PROCESS_BYTES
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.training import Items
from tunesmith.specs.quantize import Gptq, Quantize


def convert_items(shape: ModelShape, file_bytes: int) -> Items:
    """A GGUF of `file_bytes` unpacked by transformers 5.23: tensor by tensor into 16 bits, experts into float32 first.

    Resident, with 0.13 to 1.1 B parameters, dense and mixtures: 0.96 to 5.36 GB, 6 to 23 % below this.
    """
    largest = max(shape.embedding_params, shape.largest_linear)
    return {
        "process": CPU_PROCESS_BYTES,
        "GGUF file, mapped": file_bytes,
        "weights (bf16)": 2 * shape.params,
        "experts, before (fp32)": 3 * shape.expert_weights,
        "one tensor and its copy (fp32)": 2 * 4 * largest,
    }


def merge_items(shape: ModelShape) -> Items:
    """One tensor at a time: the base's and the result in 16 bits, the base and the update in float32 (12 bytes)."""
    largest = max(12 * shape.largest_linear, 4 * shape.embedding_params)
    return {"process": CPU_PROCESS_BYTES, "one tensor and its update": largest}


def quantize_items(shape: ModelShape, spec: Gptq) -> Items:
    """GPTQ (arXiv 2210.17323) block by block: the Hessian of a layer's input (its width squared) with inverse and
    Cholesky factor in float32, the layer in float32, and a block's inputs and outputs for all calibration rows.
    """
    width = max(linear.width_in for linear in shape.linears)
    rows = spec.calibration.rows * spec.calibration.max_length
    return {
        "Hessian, inverse, Cholesky factor": 3 * 4 * width * width,
        "one layer (fp32)": 2 * 4 * shape.largest_linear,
        "calibration rows": 2 * 2 * rows * shape.hidden,
        "one block's activations": 2 * spec.calibration.max_length * block_width(shape),
    }


def served_bytes(shape: ModelShape, quantize: Quantize) -> int:
    """The served weights: packed layers, and routed experts too, with a 16-bit scale and a zero per group; the rest in
    16 bits.
    """
    if not isinstance(quantize, Gptq):
        return 2 * shape.params
    weights = shape.linear_weights + shape.expert_weights
    groups = weights // quantize.group_size
    packed = (weights + groups) * quantize.bits // 8 + 2 * groups
    return packed + 2 * (shape.params - weights)


def served_precision(quantize: Quantize) -> str:
    return f"int{quantize.bits}" if isinstance(quantize, Gptq) else "bf16"


def block_width(shape: ModelShape) -> int:
    """Numbers per token a block has alive at once without gradients: residual, norm, and the MLP's three."""
    return 4 * shape.hidden + 3 * shape.ffn
