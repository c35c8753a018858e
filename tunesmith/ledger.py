"""Predicted against seen: one line per stage that ran, so that the bill can be held against this machine."""

import json
from collections.abc import Iterator
from typing import NamedTuple

from tunesmith.artifacts import Plan
from tunesmith.runner import Outcome
from tunesmith.store import Store

_FILE = "ledger.jsonl"
_PHASES = ("train", "merge", "quantize", "evaluate")
"""Those whose process is the one that holds the model; an engine outlives the stage that starts it."""
_GPU_PEAK = "peak_gpu_bytes"
"""The metric of a stage's manifest that torch.cuda.max_memory_allocated gave."""


class Entry(NamedTuple):
    """One stage that ran; bytes of resident memory on a CPU, allocated by tensors on a GPU."""

    phase: str
    device: str
    low_bytes: int
    high_bytes: int
    seen_bytes: int
    room: str
    summary: str
    """The plan's."""

    @property
    def error(self) -> float:
        """How far the nearer end of the interval is from what was seen, as a share of that; 0 inside it."""
        nearest = min(max(self.seen_bytes, self.low_bytes), self.high_bytes)
        return (nearest - self.seen_bytes) / self.seen_bytes


def note(store: Store, plan: Plan, phase: str, outcome: Outcome) -> None:
    """Appends what a finished stage took; nothing for one that holds no model, or that was done before."""
    manifest = store.manifest(outcome.room)
    low, high = plan.interval(phase)
    if outcome.cached or manifest is None or phase not in _PHASES:
        return
    seen = manifest.peak_bytes_seen
    if plan.device == "cuda":
        if _GPU_PEAK not in manifest.metrics:
            return
        low, seen = plan.allocated(phase), int(manifest.metrics[_GPU_PEAK])
    entry = Entry(phase, plan.device, low, high, seen, outcome.room, plan.summary)
    with (store.root / _FILE).open("a") as file:
        file.write(json.dumps(entry._asdict()) + "\n")


def entries(store: Store) -> Iterator[Entry]:
    """Every line, oldest first."""
    path = store.root / _FILE
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        yield Entry(**json.loads(line))
