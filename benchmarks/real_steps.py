"""A real training step to hold a figure against: a random model, loaded and trained as the train stage does."""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from tunesmith.artifacts import Plan
from tunesmith.memory.step import Step

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


@contextmanager
def loaded(config: dict[str, Any], step: Step) -> Iterator[Any]:
    """A random model of that configuration, saved and loaded as the train stage does."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from tunesmith.stages.train.model import load_model

    parsed = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(parsed).save_pretrained(folder)
        yield load_model(Path(folder), step.method, plan_of(step))


def plan_of(step: Step, device: Literal["cpu", "cuda"] = "cpu") -> Plan:
    """As the estimate leaves one behind, the step's arithmetic aside from it all empty."""
    accumulation = 2 if step.accumulates else 1
    return Plan(
        fingerprint="0", device=device, step=step, accumulation_steps=accumulation,
        low_bytes=0, peak_bytes=0, budget_bytes=0, bill=(), disk_bytes=0, summary="",
    )  # fmt: skip


def make_trainer(model: Any, step: Step, folder: str) -> Any:
    """As the train stage makes it, with its own arguments."""
    from transformers import Trainer
    from transformers.trainer_callback import PrinterCallback

    from tunesmith.stages.train.data import Collator
    from tunesmith.stages.train.loss import ChunkedLoss
    from tunesmith.stages.train.trainer import settle, training_arguments

    settle(0, plan_of(step))
    loss = ChunkedLoss(model, step.arithmetic == "amp") if step.loss == "chunked" else None
    arguments = training_arguments(step.method, plan_of(step), Path(folder))
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows_of(step), data_collator=Collator(0), compute_loss_func=loss
    )
    if step.optimizer == "adamw_foreach":
        trainer.create_optimizer()
        for group in trainer.optimizer.param_groups:
            group["foreach"] = True
    trainer.remove_callback(PrinterCallback)
    return trainer


def rows_of(step: Step) -> list[Any]:
    """One step's rows; where a batch has several, they are of different lengths."""
    from tunesmith.stages.chat import Rendered

    rows = step.micro_batch_size * (2 if step.accumulates else 1)
    lengths = [step.method.max_length - 3 * (row % step.micro_batch_size) for row in range(rows)]
    return [Rendered([5] * length, [5] * length) for length in lengths]
