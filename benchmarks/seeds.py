"""Does it learn, whatever the seed: LoRA and QLoRA over three seeds, base, tuned and merged on the held-out rows.

`python benchmarks/seeds.py [--seeds 0 1 2] [--methods lora qlora]` prints a Markdown table.
"""

import argparse
import tempfile
from pathlib import Path

from runs import demonstration, machine, tunesmith


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=["lora", "qlora"])
    asked = parser.parse_args()
    print(f"smollm2 on {machine()}\n\n| method | seed | base | tuned | merged | train seconds |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(prefix="seeds-") as folder, demonstration(Path(folder)) as environment:
        for method in asked.methods:
            for seed in asked.seeds:
                settings = (f"train.method={method}", f"train.seed={seed}", "quantize={method: none}")
                words = [word for setting in settings for word in ("--set", setting)]
                facts = tunesmith(environment, Path(folder) / "store", "smollm2", *words, "--until", "evaluate")
                seconds = next(s["seconds"] for s in facts["stages"] if s["name"] == "train")
                scores = " | ".join(f"{facts['scores'][name]:.3f}" for name in ("base", "tuned", "merged"))
                print(f"| {method} | {seed} | {scores} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
