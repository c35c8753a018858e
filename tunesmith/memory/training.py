"""The memory of one optimizer step, at its fullest moment."""

from tunesmith.memory.adamw import paged_bytes, states_bytes, temporaries_bytes
from tunesmith.memory.blocks import attention_work, experts_work, inputs_bytes, saved_bytes, work_bytes
from tunesmith.memory.constants import LOSS_BYTES, LOSS_CHUNK_TOKENS, LOSS_FORWARD_BYTES
from tunesmith.memory.parallel import Held, States, held, optimizer_bytes, passing_bytes
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import Step
from tunesmith.specs.train import Full, Train

Items = dict[str, int]
"""Bytes by item."""
COPIES = "autocast copies of weights"


def step_items(shape: ModelShape, step: Step) -> Items:
    """Bytes by item at the fullest of the step's moments, on one GPU."""
    return max(moments(shape, step).values(), key=total)


def moments(shape: ModelShape, step: Step) -> dict[str, Items]:
    """Bytes by item at the moments when a step can be at its fullest.

    The forward pass's end: everything kept for the backward pass, all copies that autocast made, and the loss. The
    loss's own backward pass: the gradients of the logits, and the copies still needed. The head: its gradient as it is
    made. The last block: that gradient, and the block's temporaries. The first block, then the embedding: all
    gradients, and their temporaries. The optimizer: all gradients, and what its kernels need beside them.
    """
    standing, passing = standing_items(shape, step), _passing_items(shape, step, blocks=2)
    beside = _passing_items(shape, step, blocks=0)
    saved = {_activations_name(step): saved_bytes(shape, step)}
    gradients = {"gradients": _held(shape, step).gradients}
    work = {"one block's temporaries": work_bytes(shape, step, shape.blocks[-1])}
    before = gradients if step.accumulates else {}
    head = before or _head_gradient(shape, step)
    loss = {"logits and loss": loss_bytes(shape, step)}
    embedding = {"the embedding's gradient": _embedding_bytes(shape, step)}
    trained_bytes = trained_params(shape, step.method) * step.trained_bytes
    updating = {"optimizer's temporaries": temporaries_bytes(step, trained_bytes)}
    return {
        "forward": standing | beside | saved | before | _forward_items(shape, step),
        "loss": standing | beside | _casts(shape, step) | saved | before | loss | _running_head_gradient(shape, step),
        "head": standing | beside | saved | before | _head_items(shape, step),
        "last block": standing | passing | _casts(shape, step, head=False) | saved | head | work,
        "first block": standing | passing | _first_block(shape, step),
        "embedding": standing | beside | gradients | embedding,
        "optimizer": standing | beside | gradients | updating,
    }


def total(items: Items) -> int:
    return sum(items.values())


def standing_items(shape: ModelShape, step: Step) -> Items:
    """What is there all the time: this GPU's weights, and its share of AdamW's states."""
    return {**held_weights(shape, step), f"optimizer states ({step.optimizer})": _held(shape, step).optimizer}


def held_weights(shape: ModelShape, step: Step) -> Items:
    """This GPU's weights, by precision."""
    items, mine = weight_items(shape, step), _held(shape, step).weights
    whole = total(items)
    return {name: size * mine // whole for name, size in items.items()}


def weight_items(shape: ModelShape, step: Step) -> Items:
    """The whole model's weights as they stand while training, by precision."""
    trained = trained_params(shape, step.method) * step.trained_bytes
    if isinstance(step.method, Full):
        return {f"weights ({_named(step.trained_bytes)})": trained}
    if not step.is_nf4:
        return {f"weights ({_named(step.frozen_bytes)})": shape.params * step.frozen_bytes, "adapter": trained}
    rest = (shape.params - shape.linear_weights - shape.expert_weights) * step.frozen_bytes
    experts = {"weights (experts, not packed)": shape.expert_weights * step.compute_bytes}
    return {
        "weights (nf4)": nf4_bytes(shape.linear_weights), **experts, "embedding, head, norms (fp32)": rest,
        "adapter": trained,
    }  # fmt: skip


def states(shape: ModelShape, step: Step) -> States:
    """What the training holds in all, whoever holds it."""
    trained = trained_params(shape, step.method)
    weights = total(weight_items(shape, step))
    optimizer = optimizer_bytes(trained, states_bytes(step, trained, _wide_params(shape, step)), step.parallel)
    return States(weights, trained, trained * step.trained_bytes, optimizer)


def host_bytes(shape: ModelShape, step: Step) -> int:
    """Host memory per GPU for what is offloaded."""
    trained, wide = trained_params(shape, step.method), _wide_params(shape, step)
    return _held(shape, step).host + paged_bytes(step, trained, wide)


def _held(shape: ModelShape, step: Step) -> Held:
    return held(states(shape, step), step.parallel)


def _passing_items(shape: ModelShape, step: Step, blocks: int) -> Items:
    """Buffers of a spread step, and its gathered weights: embedding and head all the time, blocks while they run."""
    number_bytes = 4 if step.arithmetic == "fp32" else 2
    root = number_bytes * (shape.embedding_params + shape.head_params)
    gathered = root + blocks * number_bytes * shape.layer_params
    return passing_bytes(step.parallel, states(shape, step), gathered, shape.hidden)


def _wide_params(shape: ModelShape, step: Step) -> int:
    """Trained numbers whose states are in float32 whatever the rest has."""
    return shape.embedding_params if isinstance(step.method, Full) else 0


def nf4_bytes(weights: int) -> int:
    """NF4 with double quantization (arXiv 2305.14314, section 3): 4 bits, 8 per 64 weights, 32 per 16384: 4.127."""
    return weights // 2 + weights // 64 + weights // 4096


def trained_params(shape: ModelShape, method: Train) -> int:
    """Numbers the optimizer changes; of a LoRA, rank x (in + out) per adapted layer."""
    if isinstance(method, Full):
        return shape.params
    return sum(
        block.num_layers * method.rank * (linear.width_in + linear.width_out)
        for block in shape.blocks
        for linear in shape.adapted(method.targets, block)
    )


def loss_bytes(shape: ModelShape, step: Step) -> int:
    """Logits and their gradients, of all tokens or of one piece; the pieces' hidden states have a gradient too."""
    if step.loss == "full":
        wide = step.arithmetic == "fp32" or (step.arithmetic == "bf16" and step.is_nf4)
        capped = (4 if wide else 2) if shape.capped_logits else 0
        return (LOSS_BYTES + capped) * step.tokens * shape.vocab
    piece = min(step.tokens, LOSS_CHUNK_TOKENS)
    return LOSS_BYTES * piece * shape.vocab + 4 * step.tokens * shape.hidden


def _activations_name(step: Step) -> str:
    return "activations (checkpointed)" if step.gradient_checkpointing else "activations"


def _first_block(shape: ModelShape, step: Step) -> Items:
    """The first block's backward pass at its fullest: when it begins, before there are gradients of its own, or when
    its attention's are the last to come. Where dense blocks precede those with experts, the first of either kind.
    """
    first, found = shape.blocks[0], _beginnings(shape, step)
    attention = sum(one.params for one in first.linears if not one.source.startswith("mlp"))
    found.append(_at_work(shape, step, attention, attention_work(shape, step, first)))
    if first.experts:
        passing, ended = experts_work(shape, step, first, first.experts)
        answered = first.params - first.experts.num_experts * first.experts.width * shape.hidden
        found += [_at_work(shape, step, answered, passing), _at_work(shape, step, attention, ended)]
    return max(found, key=total)


def _beginnings(shape: ModelShape, step: Step) -> list[Items]:
    """The backward pass of the first block of every kind begins."""
    found, before = [], 0
    for number, block in enumerate(shape.blocks):
        to_come = block.params + sum(one.num_layers * one.params for one in shape.blocks[:number])
        work = work_bytes(shape, step, block) + inputs_bytes(shape, step, block, before + 1)
        found.append(_at_work(shape, step, to_come, work))
        before += block.num_layers
    return found


def _at_work(shape: ModelShape, step: Step, to_come: int, work: int) -> Items:
    """This GPU's gradients but for those of `to_come` parameters, and of the embedding where the head has another."""
    gradients = _held(shape, step).gradients
    if isinstance(step.method, Full) and not step.accumulates:
        to_come += 0 if shape.tied else shape.embedding_params
        gradients -= gradients * to_come // shape.params
    return {"gradients": gradients, "one block's temporaries": work}


def _head_gradient(shape: ModelShape, step: Step) -> Items:
    if not isinstance(step.method, Full):
        return {}
    return {"gradients": shape.embedding_params * step.trained_bytes}


def _head_items(shape: ModelShape, step: Step) -> Items:
    """The head's gradient as it is made: autocast's in 16 bits, then in float32. A loss in pieces makes one for each
    and adds it to the sum of the others, in one precision into a third. Else the gradient of the logits is there too.
    """
    amp, number = step.arithmetic == "amp", step.trained_bytes
    made = 2 + 4 if amp else number
    added = (number if amp else 2 * number) if _has_pieces(step) else 0
    size = shape.embedding_params * (made + added) if isinstance(step.method, Full) else 0
    logits = 0 if _has_pieces(step) else step.compute_bytes * step.tokens * shape.vocab
    return {"the head's gradient": size, "logits and loss": logits, **_casts(shape, step, head=False)}


def _running_head_gradient(shape: ModelShape, step: Step) -> Items:
    """Of the pieces of a loss that came before."""
    return {"the head's gradient": total(_head_gradient(shape, step)) if _has_pieces(step) else 0}


def _has_pieces(step: Step) -> bool:
    return step.loss == "chunked" and step.tokens > LOSS_CHUNK_TOKENS


def _forward_items(shape: ModelShape, step: Step) -> Items:
    """Autocast keeps a copy of every trained float32 weight until the model has answered; a loss in pieces comes
    later, with the head.
    """
    if step.arithmetic != "amp":
        return {}
    if step.loss != "full":
        return {COPIES: _block_casts(shape, step)}
    loss = loss_bytes(shape, step) - (LOSS_BYTES - LOSS_FORWARD_BYTES) * step.tokens * shape.vocab
    return {COPIES: _block_casts(shape, step) + _head_cast(shape, step), "logits and loss": loss}


def _casts(shape: ModelShape, step: Step, *, head: bool = True) -> Items:
    """16-bit copies that autocast makes of float32 weights and that the backward pass needs.

    A checkpointed block makes its own again; the head's outlives the forward pass.
    """
    blocks = 0 if step.gradient_checkpointing else _block_casts(shape, step)
    size = blocks + (_head_cast(shape, step) if head else 0)
    return {COPIES: size if step.arithmetic == "amp" else 0}


def _block_casts(shape: ModelShape, step: Step) -> int:
    """Routed experts have none."""
    if isinstance(step.method, Full):
        return 2 * shape.linear_weights
    return 0 if step.adapter_precision == "bf16" else 2 * trained_params(shape, step.method)


def _head_cast(shape: ModelShape, step: Step) -> int:
    return 2 * shape.embedding_params if isinstance(step.method, Full) or step.is_nf4 else 0


def _embedding_bytes(shape: ModelShape, step: Step) -> int:
    """What there is of the embedding's gradient beside the gradients themselves.

    A tied embedding has a second one, from the head, and autograd adds the two into a third where both are of one
    precision; autocast's is there in float32 already, and that of a loss in pieces in its place. Where gradients
    accumulate, the sum is new as well.
    """
    if not isinstance(step.method, Full):
        return 0
    tied = (1 if step.arithmetic == "amp" or _has_pieces(step) else 2) if shape.tied else 0
    return (tied + step.accumulates) * step.trained_bytes * shape.embedding_params


def _named(number_bytes: int) -> str:
    return "fp32" if number_bytes == 4 else "bf16"
