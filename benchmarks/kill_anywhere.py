"""Pulling the plug in every stage of the real job: `python benchmarks/kill_anywhere.py [--seed N] [KEY=VALUE …]`.

One run is killed (kill -9 of its whole process group) at a random moment inside each stage in turn, each time followed
by the same command; the last one finishes. Beside it the same job runs uninterrupted, in a store of its own. Prints
what each kill met, whether a finished stage was done again, and whether the two adapters are the same bytes.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from runs import CHECKOUT, demonstration, machine, tunesmith

from tunesmith.store import MANIFEST, Store

STAGES = ("download", "train", "merge", "quantize.gptq", "evaluate", "serve.vllm")
LATEST_SECONDS = {"download": 2, "train": 90, "merge": 3, "quantize.gptq": 60, "evaluate": 60, "serve.vllm": 60}
"""How long after a stage's start the kill may come."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_args()
    words = ["smollm2", *(word for setting in asked.settings for word in ("--set", setting))]
    chance = random.Random(asked.seed)
    print(f"smollm2 on {machine()}, seed {asked.seed}\n\n| killed in | after, seconds | finished before and kept |")
    print("| --- | ---: | --- |")
    with tempfile.TemporaryDirectory(prefix="kill-") as folder, demonstration(Path(folder)) as environment:
        killed, whole = Store(Path(folder) / "killed").open(), Store(Path(folder) / "whole").open()
        for stage in STAGES:
            kill_in(stage, chance, environment, killed, words)
        facts = tunesmith(environment, killed.root, *words)
        print(f"\nfinished: {facts['endpoint']}, scores {facts['scores']}")
        stop(killed.root)
        tunesmith(environment, whole.root, *words, "--until", "train")
        same = adapter(killed) == adapter(whole)
        print(f"adapter bit-identical to the uninterrupted run's: {'yes' if same else 'NO'}")
    sys.exit(0 if same else 1)


def kill_in(stage: str, chance: random.Random, environment: dict[str, str], store: Store, words: list[str]) -> None:
    """Starts the command, kills its group inside the stage, and checks that what was finished stayed as it was."""
    before = finished(store)
    command = [str(Path(sys.executable).parent / "tunesmith"), "run", *words, "--store", str(store.root), "--json"]
    quiet = subprocess.DEVNULL
    run = subprocess.Popen(command, env=environment, cwd=CHECKOUT, start_new_session=True, stdout=quiet, stderr=quiet)
    while not started(store, stage):
        if run.poll() is not None:
            sys.exit(f"the run ended with {run.returncode} before it reached {stage}")
        time.sleep(0.05)
    after = chance.uniform(0, LATEST_SECONDS[stage])
    time.sleep(after)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    time.sleep(1)
    now = finished(store)
    kept = all(now.get(room) == when for room, when in before.items())
    print(f"| {stage} | {after:.1f} | {len(before)} rooms, {'all kept' if kept else 'SOME DONE AGAIN'} |", flush=True)


def started(store: Store, stage: str) -> bool:
    """Whether the stage's process has begun to write in a room of its own."""
    return any(
        (room / "stage.log").exists() for room in store.root.glob(f"{stage}-*") if not (room / MANIFEST).exists()
    )


def finished(store: Store) -> dict[str, int]:
    """Every finished room, and when its manifest was written, nanoseconds."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.root.glob(f"*/{MANIFEST}")}


def adapter(store: Store) -> str | None:
    """The adapter's digest."""
    entries = (entry for _, manifest in store.manifests() if manifest.stage == "train" for entry in manifest.files)
    return next(entry.sha256 for entry in entries if entry.path == "adapter_model.safetensors")


def stop(store: Path) -> None:
    subprocess.run([str(Path(sys.executable).parent / "tunesmith"), "stop", "--store", str(store)], check=True)


if __name__ == "__main__":
    main()
