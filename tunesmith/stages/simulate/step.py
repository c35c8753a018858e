"""One optimizer step of the train stage, and one batch of the evaluate stage, run for their allocations alone."""

from types import MethodType

import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from transformers import DynamicCache

from tunesmith.memory.step import Step
from tunesmith.stages.evaluate.asking import forward, row_loss
from tunesmith.stages.simulate.kernels import Kernels
from tunesmith.stages.simulate.optimizers import states_of
from tunesmith.stages.simulate.owners import CACHE, GRADIENTS, STATES, claimed
from tunesmith.stages.simulate.tracing import Tracer
from tunesmith.stages.train.loss import ChunkedLoss

FIRST, FORWARD_BACKWARD, OPTIMIZER, EVALUATE = "first step", "forward_backward", "optimizer", "evaluate"


def prepare(model: nn.Module, step: Step) -> ChunkedLoss | None:
    """What the train stage and Trainer do to a model before the first step: checkpointing, and autocast around its
    forward pass. Returns what computes the loss where that is not the model.
    """
    model.train()
    loss_of = ChunkedLoss(model, step.arithmetic == "amp") if step.loss == "chunked" else None
    if step.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if step.arithmetic == "amp":
        autocast = torch.autocast("cpu", dtype=torch.bfloat16)
        model.forward = MethodType(convert_outputs_to_fp32(autocast(model.forward.__func__)), model)
    return loss_of


def train_twice(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: ChunkedLoss | None,
    step: Step,
    tracer: Tracer,
    kernels: Kernels,
) -> dict[int, str]:
    """The first step, which makes the optimizer's states, and a second one, marked by phase.

    Returns whose the blocks are that became gradients or states. Where gradients accumulate, those of the first step
    stay, as an earlier micro-batch's would.
    """
    owners: dict[int, str] = {}
    for marks in ((FIRST, FIRST), (FORWARD_BACKWARD, OPTIMIZER)):
        tracer.mark(marks[0])
        tracer.moment = "forward"
        batch = _batch(step)
        _forward_backward(model, loss_of, batch, tracer)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        owners |= claimed((weight.grad for weight in weights), GRADIENTS, tracer)
        tracer.mark(marks[1])
        tracer.moment = "optimizer"
        clip_grad_norm_(weights, step.method.max_grad_norm, foreach=kernels == "cuda")
        optimizer.step()
        owners |= claimed(states_of(optimizer), STATES, tracer)
        if not step.accumulates:
            model.zero_grad()
    return owners


def _forward_backward(model: nn.Module, loss_of: ChunkedLoss | None, batch: dict[str, Tensor], tracer: Tracer) -> None:
    # As in Trainer.compute_loss the logits end with that frame, before the backward pass.
    loss = _loss(model, loss_of, **batch)
    tracer.moment = "backward"
    loss.backward()


def _batch(step: Step) -> dict[str, Tensor]:
    """Rows of full length; with a mask where rows of several lengths would share the batch."""
    shape = step.micro_batch_size, step.method.max_length
    names = ("input_ids", "labels", "attention_mask") if step.is_padded else ("input_ids", "labels")
    return {name: torch.zeros(shape, dtype=torch.long) for name in names}


def _loss(model: nn.Module, loss_of: ChunkedLoss | None, labels: Tensor, **inputs: Tensor) -> Tensor:
    """Computed by the model, or from its outputs by `loss_of`."""
    count = torch.ones((), dtype=torch.long)
    if loss_of is not None:
        return loss_of(model(**inputs, num_items_in_batch=count), labels, num_items_in_batch=count)
    loss: Tensor = model(**inputs, labels=labels, num_items_in_batch=count)["loss"]
    return loss


def evaluate(model: nn.Module, rows: int, tokens: int, answer: int, tracer: Tracer) -> dict[int, str]:
    """What `ask` of the evaluate stage does: reads `rows` x `tokens`, of which the last `answer` columns are expected
    answers, takes each row's loss, and goes on from the prompts; the token it goes on with here is the last one, when
    the cache is fullest. What all prompts begin with is taken to be a token or two: enough for a mask to be needed.

    Returns whose the blocks are that became the cache of keys and values.
    """
    tracer.mark(EVALUATE)
    tracer.moment = "forward"
    input_ids, mask = (torch.full((rows, tokens), fill, dtype=torch.long) for fill in (0, 1))
    cache = DynamicCache()
    # Inference mode would hand composite operators over whole, and what they allocate within would not be seen.
    with torch.no_grad():
        logits = forward(model, input_ids, mask, cache, answer + 1)
        owners = _claimed(cache, tracer)
        for row in logits:
            row_loss(row, torch.zeros(answer, dtype=torch.long))
        greedy = logits.argmax(-1)
        del logits, row
        cache.crop(-1)
        cache.batch_select_indices(torch.arange(rows))
        forward(model, greedy[:, :1], mask, cache, 1)
    return owners | _claimed(cache, tracer)


def _claimed(cache: DynamicCache, tracer: Tracer) -> dict[int, str]:
    return claimed((tensor for layer in cache.layers for tensor in (layer.keys, layer.values)), CACHE, tracer)
