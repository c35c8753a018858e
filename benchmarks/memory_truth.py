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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from tunesmith.artifacts import Plan
from tunesmith.environments import CHECKOUT, interpreter
from tunesmith.memory.step import Step

MIB = 2**20
RESULT = Path(__file__).parent / "results/memory_truth.md"

BASE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


MARKS = ("forward and backward begin", "optimizer begins")


class Peaks(NamedTuple):
    """Bytes at the fullest moment of a phase of the second step."""

    forward_backward: int
    optimizer: int


class Case(NamedTuple):
    """One step to take and to simulate."""

    kind: str
    """The model_type."""
    method: str
    arithmetic: str
    checkpointing: bool = False
    attention: str = "sdpa"
    micro: int = 1
    tied: bool = True
    length: int = 512
    accumulates: bool = False
    optimizer: str = "adamw_fused"
    loss: str = "full"
    train: Mapping[str, Any] = MappingProxyType({})
    """Settings of the method."""
    config: Mapping[str, Any] = MappingProxyType({})
    """Sizes other than BASE's."""

    @property
    def name(self) -> str:
        words = [self.kind, self.method, self.arithmetic, self.attention, f"{self.micro} x {self.length}"]
        words += ["checkpointed"] * self.checkpointing + ["untied"] * (not self.tied)
        words += ["accumulating"] * self.accumulates + ["loss in pieces"] * (self.loss == "chunked")
        words += [self.optimizer] * (self.optimizer != "adamw_fused")
        return ", ".join(words + [f"{key} {value}" for key, value in self.train.items()])

    @property
    def model_config(self) -> dict[str, Any]:
        return {**BASE, "model_type": self.kind, "tie_word_embeddings": self.tied, **self.config}

    @property
    def step(self) -> Step:
        method = {"method": self.method, "max_steps": 2, "batch_size": self.micro, "max_length": self.length}
        return Step.model_validate(
            {
                "method": method | dict(self.train),
                "arithmetic": self.arithmetic,
                "micro_batch_size": self.micro,
                "gradient_checkpointing": self.checkpointing,
                "accumulates": self.accumulates,
                "attention": self.attention,
                "optimizer": self.optimizer,
                "loss": self.loss,
            }
        )


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

    with _loaded(config, step) as model, tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(model, step, folder)
        standing = sum(_storages(model).values())
        # What an earlier case left behind must not end, and be counted, in this one.
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            trainer.train()
    return _highest(standing, profiler.profiler.kineto_results.events())


@contextmanager
def _loaded(config: dict[str, Any], step: Step) -> Iterator[Any]:
    """A random model of that configuration, saved and loaded as the train stage does."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from tunesmith.stages.train.model import load_model

    parsed = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(parsed).save_pretrained(folder)
        yield load_model(Path(folder), step.method, _plan(step))


def _plan(step: Step) -> Plan:
    accumulation = 2 if step.accumulates else 1
    return Plan(
        fingerprint="0", device="cpu", step=step, accumulation_steps=accumulation,
        low_bytes=0, peak_bytes=0, budget_bytes=0, bill=(), disk_bytes=0, summary="",
    )  # fmt: skip


def _trainer(model: Any, step: Step, folder: str) -> Any:
    """As the train stage makes it, with its own arguments."""
    from transformers import Trainer
    from transformers.trainer_callback import PrinterCallback

    from tunesmith.stages.train.data import Collator
    from tunesmith.stages.train.loss import ChunkedLoss
    from tunesmith.stages.train.trainer import settle, training_arguments

    settle(0, _plan(step))
    loss = ChunkedLoss(model, step.arithmetic == "amp") if step.loss == "chunked" else None
    arguments = training_arguments(step.method, _plan(step), Path(folder))
    trainer = Trainer(
        model=model, args=arguments, train_dataset=_rows(step), data_collator=Collator(0), compute_loss_func=loss
    )
    if step.optimizer == "adamw_foreach":
        trainer.create_optimizer()
        for group in trainer.optimizer.param_groups:
            group["foreach"] = True
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_marking())
    return trainer


def _rows(step: Step) -> list[Any]:
    """One step's rows; where a batch has several, they are of different lengths."""
    from tunesmith.stages.chat import Rendered

    rows = step.micro_batch_size * (2 if step.accumulates else 1)
    lengths = [step.method.max_length - 3 * (row % step.micro_batch_size) for row in range(rows)]
    return [Rendered([5] * length, [5] * length) for length in lengths]


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
