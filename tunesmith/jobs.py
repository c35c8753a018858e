"""One class per stage: what was asked, and the artifacts it starts from. And the table of stages."""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from tunesmith.artifacts import (
    Dataset,
    Evaluation,
    MergedModel,
    Model,
    ModelSnapshot,
    ModelSource,
    Plan,
    Servable,
    Tuned,
)
from tunesmith.memory.step import Step
from tunesmith.specs.evaluate import EvaluateSpec
from tunesmith.specs.quantize import Gptq
from tunesmith.specs.serve import Serve
from tunesmith.specs.spec import Spec, Where, fingerprint
from tunesmith.specs.train import SettledTrain


class Job(Spec):
    """Base of all jobs; `stage` names its row in STAGES."""

    stage: str

    @property
    def fingerprint(self) -> str:
        return fingerprint(STAGES[self.stage].version, self)

    @property
    def room_name(self) -> str:
        return f"{self.stage}-{self.fingerprint}"


class DownloadJob(Job):
    stage: Literal["download"] = "download"
    source: ModelSource


class ConvertJob(Job):
    stage: Literal["convert"] = "convert"
    base: ModelSnapshot
    """Its weights are pickles, or a GGUF."""


class TrainJob(Job):
    stage: Literal["train"] = "train"
    spec: SettledTrain
    too_long: Literal["refuse", "drop", "truncate"]
    base: ModelSnapshot
    data: Dataset
    plan: Where[Plan]
    """Not identity: the same recipe on another machine is the same adapter."""


class MergeJob(Job):
    stage: Literal["merge"] = "merge"
    tuned: Tuned


class GptqJob(Job):
    stage: Literal["quantize.gptq"] = "quantize.gptq"
    spec: Gptq
    model: MergedModel
    data: Dataset
    device: Where[Literal["cuda", "cpu"]]


class ScoreJob(Job):
    stage: Literal["evaluate"] = "evaluate"
    spec: EvaluateSpec
    max_length: int
    model: Model
    data: Dataset
    device: Where[Literal["cuda", "cpu"]]


class ServeJob(Job):
    stage: Literal["serve.vllm"] = "serve.vllm"
    name: str
    spec: Serve
    evaluate: EvaluateSpec
    evaluation: Evaluation
    """The scores the live endpoint is held against."""
    max_model_len: int
    model: Servable
    data: Dataset
    device: Where[Literal["cuda", "cpu"]]


class SimulateJob(Job):
    stage: Literal["simulate"] = "simulate"
    step: Step
    config: dict[str, Any]
    """The model's config.json."""
    evaluation_rows: int = Field(ge=0)
    """Rows answered at once; 0 leaves the evaluation out."""
    evaluation_tokens: int = Field(ge=0)
    """Tokens of a row, its answer included; 0 leaves the evaluation out. Those beyond the step's max_length are the
    answer's, whose logits are kept; where there are none, all are."""


AnyJob = Annotated[
    DownloadJob | ConvertJob | TrainJob | MergeJob | GptqJob | ScoreJob | ServeJob | SimulateJob,
    Field(discriminator="stage"),
]


class Stage(NamedTuple):
    """One row of the table: names only, nothing is imported from here."""

    module: str
    environment: str
    version: int
    """Raised when the stage's output for the same job changes."""
    launcher: tuple[str, ...] = ("{python}", "-u", "-m", "{module}", "{job}")
    """How its process is started; `{python}`, `{module}` and `{job}` are filled in."""


STAGES: dict[str, Stage] = {
    "download": Stage("tunesmith.stages.download.hub", "main", 1),
    "convert": Stage("tunesmith.stages.convert", "train", 1),
    "train": Stage("tunesmith.stages.train.trainer", "train", 1),
    "merge": Stage("tunesmith.stages.merge.streaming", "train", 1),
    "quantize.gptq": Stage("tunesmith.stages.quantize.gptq", "train", 1),
    "evaluate": Stage("tunesmith.stages.evaluate.generate", "train", 1),
    "serve.vllm": Stage("tunesmith.stages.serve.vllm", "main", 1),
    "simulate": Stage("tunesmith.stages.simulate.simulate", "train", 2),
}
