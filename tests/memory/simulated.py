"""Simulated training steps on a GPU for tests: all of a test's in one process of the train environment."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tests.rooms import in_environment
from tunesmith.memory import catalogue
from tunesmith.memory.step import Step

SIMULATE = """
import json, sys, torch
from tunesmith.stages import lean
from tunesmith.memory.step import Step
from tunesmith.stages.simulate.record import record_step
from tunesmith.stages.simulate.report import peaks

def most(config, step):
    found = peaks(record_step(config, Step.model_validate(step), "cuda"), ("forward_backward", "optimizer")).values()
    names = ("allocated_bytes", "reserved_expandable_bytes")
    return [max(getattr(peak, name) for peak in found) for name in names]

torch.set_num_threads(1)
print(json.dumps([most(*case) for case in json.loads(sys.argv[1])]))
"""


class Peak(NamedTuple):
    """Bytes of one step."""

    allocated: int
    reserved: int
    """In expandable segments."""


def simulated(cases: Iterable[tuple[Mapping[str, Any], Step]]) -> list[Peak]:
    """Of every step of every model."""
    asked = [(config, step.model_dump(mode="json")) for config, step in cases]
    return [Peak(*sizes) for sizes in in_environment("train", SIMULATE, json.dumps(asked))]


def shortened(repo: str, layers: int) -> dict[str, Any]:
    """The config.json of a model of the catalogue, with so many blocks: all else as wide as it is."""
    config = catalogue.lookup(repo)
    assert config is not None, repo
    return {key: value for key, value in config.items() if not key.startswith("_")} | {"num_hidden_layers": layers}
