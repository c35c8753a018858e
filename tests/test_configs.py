"""Every recipe is valid, and every deployment names a flow, a recipe and parameters that exist."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tunesmith.environments import CHECKOUT
from tunesmith.specs.load import load_recipe

RECIPES = sorted((CHECKOUT / "configs").glob("*.yaml"))
DEPLOYMENTS = yaml.safe_load((CHECKOUT / "deploy" / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_named_as_its_file(path: Path) -> None:
    recipe = load_recipe(str(path))
    assert recipe.name == path.stem
    for file in (recipe.data.train, recipe.data.evaluation):
        assert isinstance(file, str)
        assert (Path(recipe.folder) / file).is_file()


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: f"{Path(d['entrypoint']).stem}/{d['name']}")
def test_a_deployment_resolves(deployment: dict) -> None:
    file, function = deployment["entrypoint"].split(":")
    flow = getattr(import_module(file.removesuffix(".py").replace("/", ".")), function)
    accepted = inspect.signature(flow.fn).parameters
    assert set(deployment["parameters"]) <= set(accepted)
    assert load_recipe(deployment["parameters"]["recipe"]).name == deployment["parameters"]["recipe"]
    assert deployment["work_pool"]["name"] == "gpu"


def test_the_promised_deployments_are_there() -> None:
    names = {(Path(d["entrypoint"].split(":")[0]).stem, d["name"]) for d in DEPLOYMENTS}
    assert {("finetune", "qwen7b"), ("finetune", "smollm2"), ("retrain", "smollm2")} <= names
    retrain = next(d for d in DEPLOYMENTS if d["entrypoint"].startswith("flows/retrain"))
    assert all(schedule["timezone"] for schedule in retrain["schedules"])


def test_qwen7b_is_the_job_that_was_promised() -> None:
    recipe = load_recipe("qwen7b")
    assert recipe.model.repo == "Qwen/Qwen2.5-7B-Instruct"
    assert (recipe.train.method, recipe.train.rank) == ("qlora", 64)
    assert (recipe.train.batch_size, recipe.train.max_length) == (16, 1024)
    assert (recipe.quantize.method, recipe.quantize.bits) == ("gptq", 4)
