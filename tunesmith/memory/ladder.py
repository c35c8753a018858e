"""The ladder: every way to run a recipe, in the order experience teaches, each rung with its fastest way first.

First whatever costs nothing or little: smaller micro-batches with accumulation, then gradient checkpointing; then the
loss in pieces and 8-bit optimizer states; then sharding over the GPUs there are; then offload, which costs seconds a
step; last, where the recipe leaves it open, packing the base. A later rung keeps what the earlier ones brought.
"""

from collections.abc import Iterator
from typing import NamedTuple

from tunesmith.artifacts import Hardware
from tunesmith.memory.bill import Case, DeviceKind
from tunesmith.memory.parallel import Parallel
from tunesmith.memory.step import Arithmetic, Attention, Loss, Optimizer, Step
from tunesmith.specs.parallel import SHARDS_WEIGHTS, Offload, Strategy
from tunesmith.specs.train import AutoAdapter, Full, QLora, SettledTrain, TrainSpec

_SCALED_LOGITS = ("logit_scale", "logits_scaling", "lm_head_multiplier")
"""Keys of config.json: Cohere, Granite, Falcon-H1."""


class Rung(NamedTuple):
    """One way of saving memory; micro-batch and checkpointing are still open."""

    name: str
    method: SettledTrain
    loss: Loss
    optimizer: Optimizer
    parallel: Parallel
    attention: Attention


def rungs(case: Case, hardware: Hardware) -> Iterator[Rung]:
    """From the fastest to the most frugal; what the recipe states is on all of them."""
    train, method = case.recipe.train, _asked(case.recipe.train)
    rung = Rung("as asked", method, _loss(train), _optimizer(train), _parallel(case, hardware, "ddp"), _attention(case))
    yield rung
    if train.loss == "auto" and not _scales_logits(case):
        yield (rung := rung._replace(name="chunked loss", loss="chunked"))
    if train.optimizer == "auto" and hardware.device == "cuda":
        yield (rung := rung._replace(name="8-bit optimizer states", optimizer="adamw_8bit"))
        yield (rung := rung._replace(name="paged 8-bit optimizer states", optimizer="paged_adamw_8bit"))
    yield from _spread(case, hardware, rung)
    if isinstance(train, AutoAdapter):
        packed = rung._replace(name="qlora", method=train.settled(packed=True))
        yield packed
        yield from _spread(case, hardware, packed)


def steps(rung: Rung, case: Case, device: DeviceKind) -> Iterator[tuple[Step, int]]:
    """The rung with every micro-batch the effective batch allows, checkpointed or not, and the accumulation of each."""
    train = case.recipe.train
    checkpointing = {"auto": (False, True), "on": (True,), "off": (False,)}[train.gradient_checkpointing]
    for micro, accumulation in micro_batches(train, rung.parallel.world_size):
        for recomputed in checkpointing:
            yield _step(rung, train, device, micro, accumulation, recomputed), accumulation


def micro_batches(train: TrainSpec, world_size: int) -> Iterator[tuple[int, int]]:
    """Micro-batch and accumulation, largest first, whose product over all GPUs is the effective batch."""
    sizes = [train.micro_batch_size] if train.micro_batch_size else range(train.batch_size, 0, -1)
    for micro in sizes:
        if train.batch_size % (micro * world_size) == 0:
            yield micro, train.batch_size // (micro * world_size)


def _step(rung: Rung, train: TrainSpec, device: DeviceKind, micro: int, accumulation: int, recomputed: bool) -> Step:
    return Step(
        method=rung.method,
        arithmetic="bf16" if rung.parallel.is_zero and device == "cuda" else arithmetic(train, device),
        micro_batch_size=micro,
        gradient_checkpointing=recomputed,
        accumulates=accumulation > 1,
        attention=rung.attention,
        optimizer=rung.optimizer,
        adapter_precision="fp32" if isinstance(rung.method, Full) else rung.method.adapter_precision,
        loss=rung.loss,
        parallel=rung.parallel,
    )


def arithmetic(train: TrainSpec, device: DeviceKind) -> Arithmetic:
    """float32 on a CPU, where 16-bit arithmetic is slow; autocast on a GPU."""
    if train.precision != "auto":
        return train.precision
    return "fp32" if device == "cpu" else "amp"


def _spread(case: Case, hardware: Hardware, rung: Rung) -> Iterator[Rung]:
    """Sharding over the GPUs there are, then offload to the host and to NVMe."""
    asked, many = case.recipe.parallel, len(hardware.devices) > 1
    if hardware.device == "cpu":
        return
    rung = rung._replace(optimizer=_optimizer(case.recipe.train))
    if asked.strategy == "auto" and many:
        for strategy in _sharding(rung.method):
            rung = rung._replace(name=strategy, parallel=_parallel(case, hardware, strategy))
            yield rung
    if asked.offload == "auto" and asked.strategy not in ("single", "ddp") and not isinstance(rung.method, QLora):
        yield from _offloading(rung, asked.strategy, len(hardware.devices))


def _offloading(rung: Rung, asked: str, world_size: int) -> Iterator[Rung]:
    """States to the host, then weights, then states to NVMe; the last is DeepSpeed's alone."""
    sharded: Strategy = "fsdp" if asked == "fsdp" else "zero3"
    first: Strategy = "zero2" if asked == "auto" and world_size == 1 else rung.parallel.strategy
    steps: list[tuple[str, Strategy, Offload]] = [("optimizer states offloaded to the host", first, "optimizer")]
    if asked in ("auto", *SHARDS_WEIGHTS):
        steps.append(("weights offloaded too", sharded, "parameters"))
    if sharded == "zero3" and asked in ("auto", "zero3"):
        steps.append(("optimizer states on NVMe", sharded, "nvme"))
    for name, strategy, offload in steps:
        parallel = Parallel(strategy=strategy, world_size=world_size, offload=offload)
        yield rung._replace(name=name, parallel=parallel)


def _sharding(method: SettledTrain) -> tuple[Strategy, ...]:
    """Packed weights are sharded by FSDP2 alone."""
    return ("fsdp",) if isinstance(method, QLora) else ("zero2", "zero3")


def _parallel(case: Case, hardware: Hardware, wished: Strategy) -> Parallel:
    """`wished`, unless the recipe states otherwise; one GPU needs no spreading, and offload a strategy that has it."""
    asked, world_size = case.recipe.parallel, len(hardware.devices)
    offload = "none" if asked.offload == "auto" else asked.offload
    strategy = wished if asked.strategy == "auto" else asked.strategy
    if asked.strategy == "auto" and offload != "none":
        strategy = "zero2" if offload == "optimizer" else "zero3"
    if world_size == 1 and strategy == "ddp":
        strategy = "single"
    return Parallel(strategy=strategy, world_size=world_size, offload=offload)


def _scales_logits(case: Case) -> bool:
    """Whether the model changes its logits after the head, where a loss in pieces would not see it."""
    return case.shape.capped_logits or any(case.source.config.get(key) for key in _SCALED_LOGITS)


def _asked(train: SettledTrain | AutoAdapter) -> SettledTrain:
    return train.settled(packed=False) if isinstance(train, AutoAdapter) else train


def _loss(train: TrainSpec) -> Loss:
    return "full" if train.loss == "auto" else train.loss


def _optimizer(train: TrainSpec) -> Optimizer:
    return "adamw_fused" if train.optimizer == "auto" else train.optimizer


def _attention(case: Case) -> Attention:
    """transformers has no fused kernels for capped scores."""
    asked = case.recipe.train.attention
    if asked != "auto":
        return asked
    return "eager" if case.shape.softcap else "sdpa"
