"""Predicted against seen, stage by stage."""

from typing import Any

import pytest

from tests.memory.cases import QWEN_7B, SMOLLM2, cpu, gpu, recipe, source
from tunesmith.artifacts import Adapter, ModelSnapshot, Plan
from tunesmith.conclude import conclude
from tunesmith.ledger import Entry, entries, note
from tunesmith.memory.plan import make_plan
from tunesmith.runner import Outcome
from tunesmith.store import Store

BASE = ModelSnapshot(fingerprint="b" * 16, repo="someone/small", commit="0" * 40)


def finished(store: Store, metrics: dict[str, float] | None = None, cached: bool = False) -> Outcome:
    adapter = Adapter(fingerprint="a" * 16, method="lora", base=BASE)
    conclude(store, f"train-{adapter.fingerprint}", adapter, environment="main", seconds=1, metrics=metrics)
    return Outcome(adapter, f"train-{adapter.fingerprint}", 1.0, cached)


def small_plan() -> Plan:
    asked: dict[str, Any] = {"method": "lora", "rank": 16}
    return make_plan(recipe(asked, {"method": "none"}), source(SMOLLM2, "someone/small", 0.25), cpu())


def test_on_a_cpu_the_process_is_held_against_the_interval_of_its_phase(store: Store) -> None:
    plan = small_plan()
    note(store, plan, "train", finished(store))
    [entry] = entries(store)
    assert (entry.low_bytes, entry.high_bytes) == plan.interval("train")
    manifest = store.manifest(entry.room)
    assert manifest is not None
    assert entry.seen_bytes == manifest.peak_bytes_seen > 0


def test_on_a_gpu_tensors_are_held_against_tensors(store: Store) -> None:
    plan = make_plan(recipe(), source(QWEN_7B), gpu(24))
    note(store, plan, "train", finished(store, {"peak_gpu_bytes": 12e9}))
    [entry] = entries(store)
    assert entry.seen_bytes == 12e9
    assert entry.low_bytes == plan.allocated("train") < plan.interval("train")[0]


def test_what_was_done_before_or_is_not_billed_is_not_noted(store: Store) -> None:
    note(store, small_plan(), "train", finished(store, cached=True))
    note(store, small_plan(), "download", finished(store))
    assert not list(entries(store))


@pytest.mark.parametrize(("seen", "error"), [(150, 0.0), (100, 0.0), (200, 0.0), (80, 0.25), (250, -0.2)])
def test_an_error_is_the_way_from_the_interval(seen: int, error: float) -> None:
    assert Entry("train", "cpu", 100, 200, seen, "room", "").error == pytest.approx(error)
