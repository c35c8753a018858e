"""Is the simulation right: real training steps on this CPU beside simulated ones, in bytes allocated at the peak.

`python benchmarks/memory_truth.py` trains small random models for two steps each, by the train stage's own loading and
transformers.Trainer, and adds up what kineto saw torch's CPU allocator do. It simulates the same steps with a CPU's
kernels, prints a Markdown table and writes it to benchmarks/results/memory_truth.md.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.real_steps import Case, loaded, make_trainer
from tunesmith.environments import CHECKOUT, interpreter
from tunesmith.memory.step import Step

MIB = 2**20
RESULT = Path(__file__).parent / "results/memory_truth.md"

MARKS = ("forward and backward begin", "optimizer begins")


QWEN3_MOE = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 256}
MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 704, "sliding_window": None}
DEEPSEEK = {
    "n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 256, "first_k_dense_replace": 2,
    "n_shared_experts": 1, "n_group": 4, "topk_group": 2, "q_lora_rank": 192, "kv_lora_rank": 128,
    "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "num_key_value_heads": 8, "head_dim": 32,
}  # fmt: skip


class Peaks(NamedTuple):
    """Bytes at the fullest moment of a phase of the second step."""

    forward_backward: int
    optimizer: int


CASES = (
    Case("llama", "full", "fp32", length=1024),
    Case("llama", "full", "fp32", checkpointing=True, micro=2),
    Case("llama", "full", "amp", tied=False, length=1024),
    Case("llama", "full", "amp", checkpointing=True, optimizer="adamw_foreach"),
    Case("qwen2", "full", "bf16", attention="eager", micro=2),
    Case("qwen2", "full", "bf16", checkpointing=True, tied=False, accumulates=True),
    Case("qwen2", "lora", "fp32", micro=2, train={"rank": 16, "dropout": 0.1}),
    Case("qwen2", "lora", "amp", checkpointing=True, tied=False),
    Case("qwen3", "lora", "amp", attention="eager", accumulates=True),
    Case("qwen3", "lora", "fp32", checkpointing=True, attention="eager", micro=2),
    Case("qwen3", "lora", "bf16", micro=2),
    Case("gemma2", "full", "fp32", attention="eager", config={"sliding_window": 128}),
    Case("gemma2", "lora", "amp", attention="eager", checkpointing=True, micro=2),
    Case("llama", "qlora", "fp32", tied=False),
    Case("llama", "qlora", "amp", checkpointing=True, micro=2),
    Case("qwen2", "full", "amp", micro=2, loss="chunked"),
    Case("llama", "lora", "amp", checkpointing=True, loss="chunked", length=1024),
    Case("qwen2", "qlora", "amp", tied=False, train={"targets": ("q_proj", "v_proj")}),
    Case("qwen3_moe", "full", "fp32", config=QWEN3_MOE),
    Case("qwen3_moe", "lora", "amp", checkpointing=True, micro=2, config=QWEN3_MOE),
    Case("qwen3_moe", "qlora", "fp32", tied=False, config=QWEN3_MOE),
    Case("mixtral", "full", "amp", tied=False, config=MIXTRAL),
    Case("mixtral", "lora", "bf16", config=MIXTRAL),
    Case("deepseek_v3", "full", "bf16", checkpointing=True, config=DEEPSEEK),
    Case("deepseek_v3", "lora", "amp", tied=False, config=DEEPSEEK),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inner", type=int, help="measure one case and print its bytes")
    asked = parser.parse_args()
    if asked.inner is not None:
        print(json.dumps(measured(CASES[asked.inner])))
        return
    lines = [*_heading()]
    print("\n".join(lines), flush=True)
    for number, case in enumerate(CASES):
        lines.append(_row(case, *_in_the_train_environment(number)))
        print(lines[-1], flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join(lines) + "\n")


def _heading() -> tuple[str, ...]:
    return (
        f"The most that tensors take in the second step of transformers.Trainer, MiB; {_versions()}.",
        "",
        "| model, method, arithmetic, attention, tokens | forward and backward | simulated | error % "
        "| optimizer | simulated | error % |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    )


def _versions() -> str:
    """Of what was run."""
    names = ("torch", "transformers", "peft", "bitsandbytes")
    code = f"from importlib.metadata import version\nprint(', '.join(n + ' ' + version(n) for n in {names}))"
    found = subprocess.run([str(interpreter("train")), "-c", code], text=True, capture_output=True, check=True)
    return found.stdout.strip()


def _row(case: Case, real: Peaks, simulated: Peaks) -> str:
    pairs = zip(real, simulated, strict=True)
    cells = (f"{one / MIB:.2f} | {other / MIB:.2f} | {100 * (other / one - 1):+.3f}" for one, other in pairs)
    return f"| {case.name} | {' | '.join(cells)} |"


def _in_the_train_environment(number: int) -> tuple[Peaks, Peaks]:
    """A process per case, because Trainer's arithmetic is a setting of the process."""
    command = [str(interpreter("train")), __file__, "--inner", str(number)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"{CASES[number].name}: {done.stderr}")
    real, simulated = json.loads(done.stdout.splitlines()[-1])
    return Peaks(*real), Peaks(*simulated)


def measured(case: Case) -> tuple[Peaks, Peaks]:
    """Real ones and simulated ones; runs in the train environment."""
    from tunesmith.stages import lean  # noqa: F401  # isort: skip
    import torch

    torch.set_num_threads(1)
    return real_peaks(case.model_config, case.step), simulated_peaks(case.model_config, case.step)


def simulated_peaks(config: dict[str, Any], step: Step) -> Peaks:
    from tunesmith.stages.simulate.record import record_step
    from tunesmith.stages.simulate.report import peaks
    from tunesmith.stages.simulate.step import FORWARD_BACKWARD, OPTIMIZER

    found = peaks(record_step(config, step, "cpu"), (FORWARD_BACKWARD, OPTIMIZER))
    return Peaks(*(found[phase].allocated_bytes for phase in (FORWARD_BACKWARD, OPTIMIZER)))


def real_peaks(config: dict[str, Any], step: Step) -> Peaks:
    """Of the second step that transformers.Trainer takes, from what the model itself takes on."""
    from torch.profiler import ProfilerActivity, profile

    with loaded(config, step) as model, tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(model, step, folder)
        trainer.add_callback(_marking())
        standing = sum(_storages(model).values())
        # What an earlier case left behind must not end, and be counted, in this one.
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            trainer.train()
    return _highest(standing, profiler.profiler.kineto_results.events())


def _marking() -> Any:
    """A callback that leaves an event where each phase begins."""
    from torch.profiler import record_function
    from transformers import TrainerCallback

    class Marks(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            with record_function(MARKS[0]):
                pass

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            with record_function(MARKS[1]):
                pass

    return Marks()


def _highest(standing: int, events: list[Any]) -> Peaks:
    """The peaks after the last mark of each kind, bytes."""
    now, phase, highest = standing, "", {}
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() in MARKS:
            phase = event.name()
            highest[phase] = now
        elif event.name() == "[memory]":
            now += event.nbytes()
            highest[phase] = max(highest.get(phase, 0), now)
    return Peaks(*(highest[mark] for mark in MARKS))


def _storages(model: Any) -> dict[int, int]:
    """Bytes by address of everything the model holds, with what packed weights come with."""
    tensors = [*model.parameters(), *model.buffers()]
    for state in (weight.quant_state for weight in model.parameters() if hasattr(weight, "quant_state")):
        tensors += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


if __name__ == "__main__":
    main()
