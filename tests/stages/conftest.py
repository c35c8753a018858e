"""One real training run on the tiny model, shared by the tests of training and merging."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hearing import Heard
from tests.rooms import counting_rows, cpu_plan, finished_dataset, finished_snapshot
from tests.stages.taught import teach
from tunesmith.jobs import TrainJob
from tunesmith.runner import Outcome, run
from tunesmith.specs.train import Lora, Train
from tunesmith.store import Store

SPEC = Lora(rank=4, dropout=0.05, max_steps=40, batch_size=4, checkpoint_steps=10, learning_rate=2e-2, seed=7)


class Trained(NamedTuple):
    store: Store
    job: TrainJob
    outcome: Outcome
    heard: Heard


def train_job(store: Store, model: Path, spec: Train = SPEC) -> TrainJob:
    """A job on the tiny model with its inputs in the store."""
    return TrainJob(
        spec=spec,
        too_long="refuse",
        base=finished_snapshot(store, model),
        data=finished_dataset(store, counting_rows(30), counting_rows(3)),
        plan=cpu_plan(store, 2, 2),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """More threads only get in each other's way over matrices this small, and worse where others are at work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A LoRA adapter with dropout, 40 steps, not interrupted."""
    store = Store(tmp_path_factory.mktemp("trained")).open()
    job, heard = train_job(store, tiny_model), Heard()
    with one_thread():
        return Trained(store, job, run(job, store, heard), heard)


@pytest.fixture(scope="session")
def taught_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after it learnt a few rows by heart."""
    with one_thread():
        return teach(tiny_model, tmp_path_factory.mktemp("taught"))
