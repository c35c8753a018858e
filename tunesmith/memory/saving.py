"""The memory of a checkpoint: what is on the device while it is written, and the copies that pass through the host.

Read off transformers 5.23 (`Trainer._save_checkpoint`, `save_pretrained`, `revert_weight_conversion`), safetensors
0.8 (`_to_ndarray`), torch 2.13 (`serialization._save`), accelerate 1.15 (`get_state_dict`, `save_fsdp_optimizer`) and
DeepSpeed 0.19 (`_zero3_consolidated_16bit_state_dict`, `_save_zero_checkpoint`). Measured on a CPU, where nothing has
to be copied: no tensor beyond what stands, for dense models and adapters, and two thirds of the experts for mixtures.
"""

from tunesmith.memory.constants import WEIGHT_FILE_BYTES
from tunesmith.memory.parallel import held, passing_bytes
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Step
from tunesmith.memory.training import Items, standing_items, states, total, trained_params, weight_items
from tunesmith.specs.train import Full

_GROUP_NUMBERS = 10**9
"""DeepSpeed's sub_group_size: numbers of a ZeRO-3 process's shard that are one tensor."""


def save_items(shape: ModelShape, step: Step) -> Items:
    """Bytes by item on one GPU, or of the tensors of a training on a CPU.

    The trainer drops gradients before it saves; ZeRO-3 keeps the buffer they are in. Sharded weights are put together
    one by one. Experts are stored one by one, so gate and up, which are one tensor for all of them, are copied apart.
    """
    parallel, whole = step.parallel, states(shape, step)
    gathered = _numbers_together(shape) * _number_bytes(step)
    gradients = held(whole, parallel).gradients if parallel.strategy == "zero3" else 0
    apart = 0 if parallel.shards_weights or parallel.is_zero else _experts_apart(shape, step)
    return {
        **standing_items(shape, step),
        **passing_bytes(parallel, whole, gathered, shape.hidden),
        "gradients": gradients,
        "experts, taken apart": apart,
    }


def copied_items(shape: ModelShape, step: Step) -> Items:
    """Bytes by item on the host of a GPU's training, for all processes of one machine together; first weights pass
    through it, then states.
    """
    weights, optimizer = _weight_copies(shape, step), _state_copies(shape, step)
    return {"copies of weights and states": max(weights, optimizer)}


def _weight_copies(shape: ModelShape, step: Step) -> int:
    """Alone or with DDP one process copies a file's tensors; ZeRO-1 and 2 all weights in every process; ZeRO-3 in one,
    of an adapter nothing else; FSDP2 all in one, frozen ones too.
    """
    whole, apart = total(weight_items(shape, step)), _experts_apart(shape, step)
    written = trained_params(shape, step.method) * step.trained_bytes
    match step.parallel.strategy:
        case "single" | "ddp":
            return min(written, WEIGHT_FILE_BYTES)
        case "zero1" | "zero2":
            return step.parallel.world_size * whole + apart
        case "zero3":
            return written + apart
        case "fsdp":
            return whole + apart


def _state_copies(shape: ModelShape, step: Step) -> int:
    """torch copies one tensor at a time, and so less than the weights before; but ZeRO's are each all the master
    weights or a moment of all that a process has, and FSDP2 gathers all states in one process.
    """
    parallel = step.parallel
    if parallel.offload != "none":
        return 0
    if parallel.is_zero:
        shard = parallel.share(trained_params(shape, step.method))
        return 4 * parallel.world_size * (min(shard, _GROUP_NUMBERS) if parallel.strategy == "zero3" else shard)
    if parallel.strategy == "fsdp":
        return states(shape, step).optimizer
    return 0


def _experts_apart(shape: ModelShape, step: Step) -> int:
    """Gate and up of all experts: two thirds of them; their down projections are stored as they are."""
    return shape.expert_weights * 2 // 3 * step.trained_bytes if isinstance(step.method, Full) else 0


def _numbers_together(shape: ModelShape) -> int:
    """Of the largest weight."""
    experts = shape.experts.weights * 2 // 3 if shape.experts else 0
    return max(shape.embedding_params, shape.largest_linear, experts)


def _number_bytes(step: Step) -> int:
    """Of a weight as it is sharded."""
    return step.trained_bytes if isinstance(step.method, Full) else step.frozen_bytes
