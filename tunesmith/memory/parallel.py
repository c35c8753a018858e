"""What spreading a step over GPUs changes: the share of each state that one GPU holds, and what it gathers meanwhile.

Sources: ZeRO, arXiv 1910.02054, section 5 (shares); the defaults of DeepSpeed 0.19 (bucket sizes, live and
persistent parameters, set to "auto" by transformers from the hidden width); torch 2.13's fully_shard (units); for PCIe
and NVMe, planning values that a machine may fall short of.
"""

from typing import NamedTuple

from tunesmith.memory.constants import GIB
from tunesmith.specs.parallel import SHARDS_WEIGHTS, Offload, Strategy
from tunesmith.specs.spec import Spec

PCIE_BYTES_PER_SECOND = 22e9
"""PCIe 4.0 x16 from pinned memory: 22 to 25 GB/s."""
NVME_BYTES_PER_SECOND = 5e9
"""3 to 7 GB/s."""
NCCL_BYTES = GIB // 2
"""Buffers and channels of one communicator group: 0.2 to 1 GiB."""
_BUCKET_NUMBERS = 5 * 10**8
"""DeepSpeed's reduce_bucket_size and allgather_bucket_size, numbers."""
_MASTER_AND_MOMENTS = 12
"""Bytes per trained number: float32 master copy and AdamW's two moments."""
_PINNED_FACTOR = 1.5
"""Host memory that DeepSpeed's own estimators add for pinned buffers."""


class Parallel(Spec):
    """A settled choice of how a step is spread."""

    strategy: Strategy = "single"
    world_size: int = 1
    offload: Offload = "none"

    @property
    def shards_weights(self) -> bool:
        return self.strategy in SHARDS_WEIGHTS

    @property
    def is_zero(self) -> bool:
        """DeepSpeed keeps 16-bit weights beside a float32 master copy, whatever the recipe trains in."""
        return self.strategy.startswith("zero")

    def share(self, size: int) -> int:
        """Bytes one GPU holds of what all share evenly."""
        return -(-size // self.world_size)


class States(NamedTuple):
    """What a training holds, whole, in bytes."""

    weights: int
    trained: int
    """Numbers, not bytes."""
    gradients: int
    optimizer: int


class Held(NamedTuple):
    """What one GPU holds of it."""

    weights: int
    gradients: int
    optimizer: int
    host: int
    """Host memory per GPU."""


def held(states: States, parallel: Parallel) -> Held:
    """The share of one GPU: weights from stage 3 on, gradients from stage 2 on, optimizer states from stage 1 on."""
    stage = {"single": 0, "ddp": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp": 3}[parallel.strategy]
    weights = parallel.share(states.weights) if stage >= 3 else states.weights
    gradients = parallel.share(states.gradients) if stage >= 2 else states.gradients
    optimizer = parallel.share(states.optimizer) if stage >= 1 else states.optimizer
    return _offloaded(Held(weights, gradients, optimizer, 0), parallel)


def _offloaded(whole: Held, parallel: Parallel) -> Held:
    """States, and gradients with them, leave for the host; on NVMe only a window of them passes through it."""
    if parallel.offload == "none":
        return whole
    host = int(_PINNED_FACTOR * (whole.optimizer + whole.gradients))
    if parallel.offload == "nvme":
        host = int(_PINNED_FACTOR * whole.gradients)
    if parallel.offload == "optimizer":
        return whole._replace(optimizer=0, gradients=0, host=host)
    return Held(0, 0, 0, host + int(_PINNED_FACTOR * whole.weights))


def optimizer_bytes(trained: int, plain: int, parallel: Parallel) -> int:
    """Of all states together: ZeRO's master copy and moments, else what the optimizer keeps (`plain`)."""
    return _MASTER_AND_MOMENTS * trained if parallel.is_zero else plain


def passing_bytes(parallel: Parallel, states: States, gathered: int, hidden: int) -> dict[str, int]:
    """Buffers, and the weights gathered at the moment, by item; `hidden` is the model's width."""
    if parallel.world_size == 1:
        return {}
    found = {"NCCL": NCCL_BYTES}
    if parallel.strategy == "ddp":
        return found | {"gradient buckets (DDP)": states.gradients}
    if parallel.strategy in ("zero1", "zero2"):
        bucket = min(_BUCKET_NUMBERS, states.trained) * 2
        return found | {"reduce and all-gather buckets": 2 * bucket}
    if parallel.strategy == "zero3":
        # transformers' "auto": reduce hidden squared, prefetch nine tenths of that, numbers of two bytes.
        return found | {"gathered weights (ZeRO-3)": gathered, "buckets": int(2 * 1.9 * hidden**2)}
    return found | {"gathered weights (FSDP2)": gathered}


def transfer_seconds(parallel: Parallel, states: States, micro_batches: int, recomputes: bool) -> float:
    """Seconds that one optimizer step adds for moving what was offloaded, were nothing of it hidden behind compute.

    Gradients go down and updated weights come up once a step; offloaded weights come up for every pass of every
    micro-batch; states on NVMe are read and written once a step.
    """
    if parallel.offload == "none":
        return 0.0
    once = parallel.share(2 * 2 * states.trained)
    passes = (3 if recomputes else 2) * micro_batches if parallel.offload in ("parameters", "nvme") else 0
    seconds = (once + passes * parallel.share(states.weights)) / PCIE_BYTES_PER_SECOND
    if parallel.offload == "nvme":
        seconds += 2 * parallel.share(states.optimizer) / NVME_BYTES_PER_SECOND
    return seconds
