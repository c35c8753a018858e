"""The recipe: what to learn, and what must hold before it is served. One YAML file, never changed by a run."""

from pydantic import Field

from tunesmith.specs.backup import BackupSpec
from tunesmith.specs.data import DataSpec
from tunesmith.specs.evaluate import EvaluateSpec
from tunesmith.specs.hardware import HardwareSpec
from tunesmith.specs.model import ModelSpec
from tunesmith.specs.parallel import ParallelSpec
from tunesmith.specs.quantize import NoQuantization, Quantize
from tunesmith.specs.serve import Serve, Vllm
from tunesmith.specs.spec import Spec, Where
from tunesmith.specs.train import Train


class Recipe(Spec):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Names the deployment and the served model: lower-case letters, digits, `.`, `_`, `-`."""
    model: ModelSpec
    data: DataSpec
    train: Train
    quantize: Quantize = NoQuantization()
    evaluate: EvaluateSpec = EvaluateSpec()
    serve: Serve = Vllm()
    parallel: ParallelSpec = ParallelSpec()
    hardware: HardwareSpec = HardwareSpec()
    backup: Where[BackupSpec | None] = None
    """Unset, results are kept in the store alone."""
    folder: Where[str] = "."
    """Where relative paths start: the recipe's folder. Set by the loader, not by the file."""
