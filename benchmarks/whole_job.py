"""The whole job, stage by stage: `python benchmarks/whole_job.py [RECIPE] [KEY=VALUE …]` in a fresh store.

Prints a Markdown table of wall seconds and peak resident memory per stage, as their manifests have them.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from runs import demonstration, machine, tunesmith

from tunesmith.store import Store


def rows(store: Store, stages: list[dict[str, Any]]) -> list[str]:
    """One line per stage; `evaluate` is the sum over its candidates and the largest of them."""
    seen = {name.rpartition("-")[0]: 0 for name, _ in store.manifests()}
    for name, manifest in store.manifests():
        stage = name.rpartition("-")[0]
        seen[stage] = max(seen[stage], manifest.peak_bytes_seen)
    lines = ["| stage | seconds | peak RSS, GiB |", "| --- | ---: | ---: |"]
    for stage in stages:
        room = stage["room"].rpartition("-")[0]
        peak = seen["evaluate"] if stage["name"] == "evaluate" else seen[room]
        lines.append(f"| {stage['name']} | {stage['seconds']:.1f} | {peak / 2**30:.2f} |")
    total = sum(stage["seconds"] for stage in stages)
    return [*lines, f"| **all** | **{total:.1f}** | |"]


def main() -> None:
    recipe, *settings = sys.argv[1:] or ["smollm2"]
    with tempfile.TemporaryDirectory(prefix="whole-job-") as folder, demonstration(Path(folder)) as environment:
        store = Path(folder) / "store"
        facts = tunesmith(environment, store, recipe, *(word for s in settings for word in ("--set", s)))
        print(f"{recipe} {' '.join(settings)} on {machine()}\n")
        print("\n".join(rows(Store(store), facts["stages"])))
        print("\nscores: " + ", ".join(f"{name} {score:.3f}" for name, score in facts["scores"].items()))
        subprocess.run([str(Path(sys.executable).parent / "tunesmith"), "stop", "--store", str(store)], check=True)


if __name__ == "__main__":
    main()
