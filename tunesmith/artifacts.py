"""What each stage leaves behind. An artifact names its room and its fingerprint; paths come from the store."""

from typing import Annotated, Any, Literal

from pydantic import Field

from tunesmith.memory.said import BillItem, Rejected, SimulatedMoment, SimulatedPeak
from tunesmith.memory.step import Step
from tunesmith.specs.spec import Spec, Where


class FileEntry(Spec):
    """One file, by content."""

    path: str
    """Relative, with forward slashes."""
    size: int = Field(ge=0)
    """Bytes."""
    sha256: str | None = None
    """Hex digest; None where the hub does not list one (small text files)."""
    git_id: Where[str | None] = Field(None, exclude_if=lambda value: value is None)
    """What git calls the same content, 40 hex digits, where the hub says so."""


class Artifact(Spec):
    fingerprint: str
    """Of the job that made it."""

    def identity(self) -> Any:
        return self.fingerprint


class ModelSource(Spec):
    """A model repo pinned to a commit and to the content of its files; no weight is downloaded yet."""

    repo: str
    commit: Where[str]
    """40 hex digits on a hub, each of which has its own; for a folder, a digest of its files."""
    files: tuple[FileEntry, ...]
    """What the download stage will fetch: safetensors, configuration, tokenizer."""
    endpoint: Where[str | None] = None
    """Who listed it: a hub's address, or another word of `sources`; None for a local model."""
    sources: Where[tuple[str, ...]] = ()
    """Where the files may come from, in this order: addresses and absolute folders; none of them is `endpoint`."""
    revision: Where[str] = "main"
    """What the recipe asked for: a source with commits of its own is asked for it too."""
    path: Where[str | None] = None
    """The folder, for a local model."""
    xet: Where[bool] = False
    """Whether hf_xet brings what the hub has in Xet."""
    config: dict[str, Any]
    """The model's config.json."""

    @property
    def total_bytes(self) -> int:
        return sum(entry.size for entry in self.files)

    def identity(self) -> Any:
        """The content, whoever listed it under whatever commit; and the commit, where a file is known by it alone."""
        content = super().identity()
        return content if all(entry.sha256 for entry in self.files) else {**content, "commit": self.commit}


class Dataset(Artifact):
    """Checked rows, copied into the store as chat messages."""

    type: Literal["dataset"] = "dataset"
    num_train: int
    num_evaluation: int
    longest_train_chars: int = 0
    """Characters of the longest training row; the train stage counts tokens."""


class Resolved(Artifact):
    """`main` turned into a commit, and data files into their content."""

    type: Literal["resolved"] = "resolved"
    model: ModelSource
    data: Dataset


class Device(Spec):
    """One accelerator, or the host's memory where there is none."""

    name: str
    memory_bytes: int


class Hardware(Spec):
    device: Literal["cuda", "cpu"]
    devices: tuple[Device, ...]
    ram_bytes: int
    cores: int


class Plan(Artifact):
    """How the recipe fits the hardware; recovery may step it down, the recipe stays."""

    type: Literal["plan"] = "plan"
    device: Literal["cuda", "cpu"]
    step: Step
    """One micro-batch: method, precision, kernels, sharding."""
    accumulation_steps: int
    evaluation_rows: int = Field(1, ge=1)
    """Held-out rows billed as answered at once."""
    low_bytes: int
    """Predicted in the fullest phase, if the allocator wasted nothing."""
    peak_bytes: int
    """Predicted, on the fullest device, over all phases; what is planned on."""
    budget_bytes: int
    """What the device has, less the headroom."""
    bill: tuple[BillItem, ...]
    disk_bytes: int
    """What the store will grow by at most."""
    disk: dict[str, int] = Field(default_factory=dict)
    """The same by stage."""
    summary: str
    """One line with the numbers of the decision."""
    rejected: tuple[Rejected, ...] = ()
    """Rungs before this one, in the order they were tried."""
    transfer_seconds: float = 0.0
    """What offloading adds to an optimizer step."""
    kv_tokens: int = 0
    """Tokens of KV cache the server has room for."""
    max_sequences: int = 0
    """Full-length sequences among them."""

    @property
    def micro_batch_size(self) -> int:
        return self.step.micro_batch_size

    @property
    def gradient_checkpointing(self) -> bool:
        return self.step.gradient_checkpointing

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """Of frozen weights and of the arithmetic."""
        return "fp32" if self.step.arithmetic == "fp32" else "bf16"

    def interval(self, phase: str) -> tuple[int, int]:
        """Bytes that a phase takes on its device, without and with what the allocator wastes; zeros if not billed."""
        items = [item for item in self.bill if item.phase == phase and item.place == "device"]
        return sum(item.bytes for item in items if item.kind != "slack"), sum(item.bytes for item in items)

    def allocated(self, phase: str) -> int:
        """Bytes of the phase's tensors on its device."""
        items = (item for item in self.bill if item.phase == phase and item.place == "device")
        return sum(item.bytes for item in items if item.kind == "allocated")


class ModelSnapshot(Artifact):
    """A base model on disk, verified."""

    type: Literal["snapshot"] = "snapshot"
    repo: str
    commit: str


class Adapter(Artifact):
    """A PEFT adapter and the base it belongs to."""

    type: Literal["adapter"] = "adapter"
    method: Literal["lora", "qlora"]
    base: ModelSnapshot


class TunedModel(Artifact):
    """All weights, after full fine-tuning."""

    type: Literal["tuned"] = "tuned"
    base: ModelSnapshot


class MergedModel(Artifact):
    """16-bit weights with tokenizer, chat template and generation config."""

    type: Literal["merged"] = "merged"
    base: ModelSnapshot


class QuantizedModel(Artifact):
    type: Literal["quantized"] = "quantized"
    method: str
    base: ModelSnapshot


Tuned = Annotated[Adapter | TunedModel, Field(discriminator="type")]
Servable = Annotated[MergedModel | QuantizedModel, Field(discriminator="type")]
Model = Annotated[ModelSnapshot | Adapter | TunedModel | MergedModel | QuantizedModel, Field(discriminator="type")]


class Score(Artifact):
    """One model on the held-out rows."""

    type: Literal["score"] = "score"
    score: float
    """The recipe's metric, 0 to 1."""
    nll: float | None
    """Mean negative log-likelihood per answer token, nats; None where only text came back."""
    num_rows: int


class Evaluation(Artifact):
    """Every candidate's score and the gate's word on them."""

    type: Literal["evaluation"] = "evaluation"
    scores: dict[str, Score]
    """By candidate: base, tuned, merged, quantized."""
    objections: tuple[str, ...]
    """Empty when the gate held."""


class Release(Artifact):
    """What is served, made from what."""

    type: Literal["release"] = "release"
    name: str
    """`<recipe>-<fingerprint>`: the process and the log are called so."""
    served_name: str
    endpoint: str
    """Base URL for OpenAI clients, ending in /v1."""
    score: float
    """The live endpoint's own score on the first held-out rows."""
    answers: tuple[tuple[str, str], ...]
    """Smoke question and answer."""


class Simulation(Artifact):
    """What an optimizer step allocates, by running it without its numbers."""

    type: Literal["simulation"] = "simulation"
    forward_backward: SimulatedPeak
    optimizer: SimulatedPeak
    evaluate: SimulatedPeak | None
    """None where none was asked for."""
    timeline: tuple[SimulatedMoment, ...]
    """One step once the optimizer has its states: at most 400 moments."""
    events: int
    """Allocations and frees that were followed."""
    versions: dict[str, str]
    """Of the libraries whose code was run."""


Anything = Annotated[
    Dataset
    | Resolved
    | Plan
    | ModelSnapshot
    | Adapter
    | TunedModel
    | MergedModel
    | QuantizedModel
    | Score
    | Evaluation
    | Release
    | Simulation,
    Field(discriminator="type"),
]
