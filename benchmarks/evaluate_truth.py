"""Is the simulated evaluation right: real batches on this CPU beside simulated ones, in bytes allocated at the peak.

`python benchmarks/evaluate_truth.py` puts batches to small random models by the evaluate stage's own `ask`, adds up
what kineto saw torch's CPU allocator do, simulates the same batches with a CPU's kernels, prints a Markdown table and
writes it to benchmarks/results/evaluate_truth.md.
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.real_steps import BASE
from tunesmith.environments import CHECKOUT, interpreter
from tunesmith.memory.step import Step

MIB = 2**20
RESULT = Path(__file__).parent / "results/evaluate_truth.md"
MARK = "the batch begins"


class Case(NamedTuple):
    """One batch; prompts differ in length by a few tokens, as real ones do."""

    kind: str
    rows: int
    prompt: int
    answer: int
    config: Mapping[str, Any] = MappingProxyType({})
    """Sizes other than BASE's."""

    @property
    def name(self) -> str:
        sizes = [f"{key} {value}" for key, value in self.config.items()]
        return ", ".join([self.kind, f"{self.rows} x ({self.prompt} + {self.answer})", *sizes])

    @property
    def model_config(self) -> dict[str, Any]:
        return {**BASE, "model_type": self.kind, "tie_word_embeddings": True, **self.config}


CASES = (
    Case("llama", 4, 384, 32),
    Case("llama", 6, 700, 8),
    Case("qwen2", 4, 384, 32, {"vocab_size": 4096}),
    Case("qwen3", 6, 512, 16, {"tie_word_embeddings": False}),
    Case("qwen3", 4, 512, 8, {"num_attention_heads": 16, "vocab_size": 512}),
    Case("mistral", 6, 700, 8, {"sliding_window": 256, "vocab_size": 512}),
    Case("phi3", 4, 512, 8, {"vocab_size": 512, "head_dim": 64}),
    Case("gemma2", 4, 384, 32, {"sliding_window": 128}),
    Case("gemma2", 6, 512, 8, {"sliding_window": 128, "vocab_size": 512}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inner", action="store_true", help="measure all cases and print their bytes")
    if parser.parse_args().inner:
        print(json.dumps([measured(case) for case in CASES]))
        return
    command = [str(interpreter("train")), __file__, "--inner"]
    done = subprocess.run(
        command, cwd=CHECKOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, stdout=subprocess.PIPE, check=True
    )
    lines = ["| model and batch | real, MiB | simulated | error % |", "| --- | ---: | ---: | ---: |"]
    for case, (real, simulated) in zip(CASES, json.loads(done.stdout.splitlines()[-1]), strict=True):
        error = 100 * (simulated / real - 1)
        lines.append(f"| {case.name} | {real / MIB:.2f} | {simulated / MIB:.2f} | {error:+.3f} |")
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def measured(case: Case) -> tuple[int, int]:
    """The real peak and the simulated one, bytes; runs in the train environment."""
    from tunesmith.stages import lean  # noqa: F401  # isort: skip
    import torch

    torch.set_num_threads(1)
    return real_peak(case), simulated_peak(case)


def simulated_peak(case: Case) -> int:
    from tunesmith.stages.simulate.record import record_evaluations
    from tunesmith.stages.simulate.report import peaks
    from tunesmith.stages.simulate.step import EVALUATE

    step = Step.model_validate(
        {
            "method": {"method": "full", "max_steps": 1, "max_length": case.prompt},
            "arithmetic": "fp32", "micro_batch_size": 1, "gradient_checkpointing": False, "accumulates": False,
        }
    )  # fmt: skip
    tokens = case.prompt + case.answer
    (found,) = record_evaluations(case.model_config, step, "cpu", case.rows, tokens)
    return peaks(found, (EVALUATE,))[EVALUATE].allocated_bytes


def real_peak(case: Case) -> int:
    """Of one call of the evaluate stage's `ask`, from what the model itself takes on."""
    from torch.profiler import ProfilerActivity, profile, record_function
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from tunesmith.stages.evaluate.asking import ask, read_opening

    parsed = CONFIG_MAPPING[case.kind].from_dict(case.model_config)
    model, batch = AutoModelForCausalLM.from_config(parsed).eval(), questions(case)
    tensors = [*model.parameters(), *model.buffers()]
    standing = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    # What an earlier case left behind must not end, and be counted, in this one.
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        opening = read_opening(model, batch)
        with record_function(MARK):
            pass
        ask(model, opening, batch, case.answer, frozenset())
    return _highest(sum(standing.values()), profiler.profiler.kineto_results.events())


def questions(case: Case) -> list[Any]:
    """Random tokens that share no beginning."""
    from tunesmith.stages.chat import IGNORED
    from tunesmith.stages.evaluate.asking import Question

    chance, found = random.Random(0), []
    for row in range(case.rows):
        prompt, answer = (
            [chance.randrange(3, case.model_config["vocab_size"]) for _ in range(length)]
            for length in (case.prompt - row, case.answer)
        )
        prompt[0] = 3 + row
        found.append(Question(row, prompt, answer, [IGNORED] * len(prompt) + answer))
    return found


def _highest(standing: int, events: list[Any]) -> int:
    """The peak after the mark, bytes."""
    now, highest, begun = standing, 0, False
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == MARK:
            begun = True
        elif event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now if begun else 0)
    return highest


if __name__ == "__main__":
    main()
