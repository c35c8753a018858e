"""What others measured, and under which conditions: the files of benchmarks/published/."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

sys.path.insert(0, str(Path(__file__).parents[1]))

from tunesmith.memory import catalogue
from tunesmith.memory.evaluation import Batch, Judged, evaluate_items
from tunesmith.memory.kv_cache import kv_bytes
from tunesmith.memory.phases import served_bytes
from tunesmith.memory.serving import serve_items
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.step import AdapterPrecision, Arithmetic, Attention, Optimizer, Step
from tunesmith.memory.training import Items, moments
from tunesmith.specs.parallel import Strategy
from tunesmith.specs.quantize import NoQuantization
from tunesmith.specs.serve import Vllm
from tunesmith.specs.spec import Spec

FOLDER = Path(__file__).parent / "published"

Moments = dict[str, Items]
MechanismName = Literal[
    "rest_in_16_bits",
    "packed_layers_keep_inputs",
    "one_adapter_input",
    "fused_qkv_kept",
    "adapter_update_kept",
    "loss_in_16_bits",
    "profile_of_one_sequence",
]


class _Row(Spec):
    name: str
    model: str
    card: str
    published: float | None
    """In the source's unit, of a training all GPUs together; None: it ran out of memory."""
    gpus: int = 1


class Training(_Row):
    """A training step."""

    kind: Literal["train"] = "train"
    method: Literal["lora", "qlora"]
    arithmetic: Arithmetic
    adapter_precision: AdapterPrecision
    rank: int
    dropout: float
    targets: Literal["all-linear"] | tuple[str, ...]
    length: int
    micro_batch_size: int
    checkpointing: bool
    accumulates: bool
    attention: Attention
    optimizer: Optimizer
    strategy: Strategy = "single"

    def step(self, method: str) -> Step:
        adapter = {"rank": self.rank, "dropout": self.dropout, "targets": self.targets}
        return Step.model_validate(
            {
                "method": {"method": method, "max_steps": 1, "max_length": self.length, **adapter},
                "arithmetic": self.arithmetic, "micro_batch_size": self.micro_batch_size,
                "gradient_checkpointing": self.checkpointing, "accumulates": self.accumulates,
                "attention": self.attention, "optimizer": self.optimizer, "adapter_precision": self.adapter_precision,
                "parallel": {"strategy": self.strategy, "world_size": self.gpus},
            }
        )  # fmt: skip

    @property
    def tokens(self) -> int:
        return self.micro_batch_size * self.length

    def moments(self, shape: ModelShape) -> Moments:
        return moments(shape, self.step(self.method))


class Answering(_Row):
    """One prompt answered by 16-bit weights."""

    kind: Literal["answer"]
    prompt_tokens: int
    new_tokens: int

    def moments(self, shape: ModelShape) -> Moments:
        return {"answer": evaluate_items(shape, (Judged(2),), Batch(1, self.prompt_tokens, self.new_tokens))}


class Serving(_Row):
    """What vLLM says at its start, per GPU."""

    kind: Literal["serve"]
    max_model_len: int
    quantity: Literal["weights", "cache", "beside"]
    """`cache`: `tokens` of it; `beside`: all that is not cache."""
    tokens: int = 0

    def moments(self, shape: ModelShape) -> Moments:
        if self.quantity == "weights":
            return {"serve": {"weights": served_bytes(shape, NoQuantization())}}
        if self.quantity == "cache":
            return {"serve": {"KV cache": kv_bytes(shape, self.tokens)}}
        spec = Vllm(engine_args={"tensor-parallel-size": self.gpus})
        return {"serve": serve_items(shape, NoQuantization(), spec, 0, "cuda")}


Row = Training | Answering | Serving


class Mechanism(Spec):
    """What a source's software does otherwise than the libraries the bill is made for."""

    name: MechanismName
    reason: str


class Source(Spec):
    """One file: where the figures are from, and under which conditions."""

    source: str
    where: str
    software: str
    metric: Literal["allocated", "reserved", "device"]
    """torch's max_memory_allocated, max_memory_reserved, or what the driver says is used."""
    unit: Literal["GB", "GiB", "MiB"]
    unit_stated: bool
    """Whether GB is known to be 10^9 bytes; else it may be 2^30."""
    notes: tuple[str, ...]
    mechanisms: tuple[Mechanism, ...]
    models: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The config.json of models that the catalogue lacks."""
    rows: tuple[Annotated[Row, Field(discriminator="kind")], ...]
    not_billed: tuple[str, ...]

    def shape(self, row: Row) -> ModelShape:
        config = self.models.get(row.model) or catalogue.lookup(row.model)
        assert config is not None, f"{self.source}: no shape for {row.model}"
        return ModelShape.from_config(config)


def load() -> list[Source]:
    """All sources; what is `common` to the rows of a file stands in each."""
    found = []
    for path in sorted(FOLDER.glob("*.yaml")):
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
        common = text.pop("common")
        text["rows"] = [common.get(row["kind"], {}) | row for row in text["rows"]]
        found.append(Source.model_validate(text))
    return found
