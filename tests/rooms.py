"""Finished rooms for tests of later stages: what download, resolve and estimate would have left in the store."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.artifacts import Dataset, ModelSnapshot, Plan
from tunesmith.conclude import conclude
from tunesmith.environments import CHECKOUT, interpreter
from tunesmith.memory.step import Step
from tunesmith.specs.spec import fingerprint
from tunesmith.specs.train import Full
from tunesmith.store import OUT, Store, list_files

Row = dict[str, list[dict[str, str]]]


def chat(prompt: str, answer: str) -> Row:
    """One row of a data set."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def counting_rows(count: int) -> list[Row]:
    """Rows with a rule to learn: the answer repeats the number in the question."""
    return [chat(f"Please send {number} lamps to Lyon.", f'{{"count": {number}}}') for number in range(count)]


def finished_snapshot(store: Store, folder: Path, repo: str = "someone/tiny") -> ModelSnapshot:
    """The model in `folder`, as the download stage leaves one behind."""
    digest = hashlib.sha1(repr(list_files(folder)).encode()).hexdigest()
    snapshot = ModelSnapshot(fingerprint=fingerprint("download", repo, digest), repo=repo, commit=digest)
    name = f"download-{snapshot.fingerprint}"
    shutil.copytree(folder, store.room(name) / OUT, dirs_exist_ok=True)
    conclude(store, name, snapshot, environment="main", seconds=0)
    return snapshot


def finished_dataset(store: Store, train_rows: Sequence[Row], heldout_rows: Sequence[Row] = ()) -> Dataset:
    """The rows, as the resolver leaves them behind."""
    dataset = Dataset(
        fingerprint=fingerprint("dataset", train_rows, heldout_rows),
        num_train=len(train_rows),
        num_evaluation=len(heldout_rows),
        longest_train_chars=max((len(json.dumps(row)) for row in train_rows), default=0),
    )
    name = f"data-{dataset.fingerprint}"
    for file, rows in (("train.jsonl", train_rows), ("evaluation.jsonl", heldout_rows)):
        path = store.room(name) / OUT / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    conclude(store, name, dataset, environment="main", seconds=0)
    return dataset


def cpu_plan(
    store: Store,
    micro_batch_size: int = 4,
    accumulation_steps: int = 1,
    gradient_checkpointing: bool = False,
    **kernels: Any,
) -> Plan:
    """A plan for this machine's host memory with room to spare, as the estimate leaves one behind."""
    plan = Plan(
        fingerprint=fingerprint("plan", micro_batch_size, accumulation_steps, gradient_checkpointing, kernels),
        device="cpu",
        step=Step(
            method=Full(max_steps=1),
            arithmetic="fp32",
            micro_batch_size=micro_batch_size,
            gradient_checkpointing=gradient_checkpointing,
            accumulates=accumulation_steps > 1,
            **kernels,
        ),
        accumulation_steps=accumulation_steps,
        low_bytes=1 << 30,
        peak_bytes=1 << 30,
        budget_bytes=8 << 30,
        bill=(),
        disk_bytes=0,
        summary="a plan for a test",
    )
    conclude(store, f"estimate-{plan.fingerprint}", plan, environment="main", seconds=0)
    return plan


def in_environment(name: str, script: str, *arguments: str) -> Any:
    """Runs a few lines in a stage environment and returns the JSON of the last line they print."""
    done = subprocess.run(
        [str(interpreter(name)), "-c", script, *arguments], cwd=CHECKOUT, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
