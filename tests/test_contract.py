"""The union of jobs, the table of stages, the environments and the files agree; the core stays light."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from tunesmith.environments import CHECKOUT, ENVIRONMENTS
from tunesmith.errors import TunesmithError, revive, tree
from tunesmith.jobs import STAGES, AnyJob
from tunesmith.specs.quantize import NoQuantization, Quantize
from tunesmith.specs.serve import Serve

CORE = [
    path
    for path in (CHECKOUT / "tunesmith").rglob("*.py")
    if "stages" not in path.parts and path.name not in ("__init__.py", "__main__.py")
]


def _jobs() -> list[type]:
    return list(get_args(get_args(AnyJob)[0]))


def test_every_job_has_its_row_and_every_row_its_job() -> None:
    asked = {job.model_fields["stage"].default for job in _jobs()}
    assert asked == set(STAGES), f"jobs and STAGES differ: {asked ^ set(STAGES)}"


@pytest.mark.parametrize("name", STAGES)
def test_a_row_names_an_environment_and_a_module_that_runs(name: str) -> None:
    row = STAGES[name]
    assert row.environment in ENVIRONMENTS, f"{name} runs in {row.environment}, which environments.py does not know"
    path = CHECKOUT / (row.module.replace(".", "/") + ".py")
    assert path.exists(), f"{name}: {path.relative_to(CHECKOUT)} is missing"
    assert 'if __name__ == "__main__":\n    worker.main(' in path.read_text(), f"{name}: no two-line __main__"


@pytest.mark.parametrize("name", [n for n, row in STAGES.items() if row.environment == "main"])
def test_stages_of_the_orchestrator_import_here(name: str) -> None:
    assert importlib.util.find_spec(STAGES[name].module)


def test_every_choice_of_a_recipe_has_a_stage() -> None:
    quantizers = {arm.model_fields["method"].default for arm in get_args(get_args(Quantize)[0])}
    quantizers -= {NoQuantization.model_fields["method"].default}
    engines = {Serve.model_fields["engine"].default}
    asked = {f"quantize.{q}" for q in quantizers} | {f"serve.{e}" for e in engines}
    assert asked <= set(STAGES), f"no stage for {asked - set(STAGES)}"


def test_the_core_imports_neither_prefect_nor_torch() -> None:
    modules = [str(p.relative_to(CHECKOUT).with_suffix("")).replace("/", ".") for p in CORE]
    heavy = ("prefect", "torch", "transformers", "peft", "vllm")
    code = f"import sys, importlib\nfor m in {modules!r}: importlib.import_module(m)\nprint([h for h in {heavy!r} if h in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", f"the core imports {done.stdout}"


def test_flows_and_tasks_never_import_a_stage() -> None:
    files = [*(CHECKOUT / "flows").glob("*.py"), *(CHECKOUT / "tasks").glob("*.py")]
    assert len(files) > 10
    guilty = [path.name for path in files if "tunesmith.stages" in path.read_text()]
    assert not guilty


def test_a_flow_file_shadows_no_library() -> None:
    stems = {path.stem for path in (CHECKOUT / "flows").glob("*.py")} - {"__init__", "__main__"}
    for stem in stems:
        spec = importlib.util.find_spec(stem)
        assert spec is None or Path(spec.origin or "").parent == CHECKOUT / "flows", f"flows/{stem}.py shadows {spec}"


@pytest.mark.parametrize("name", tree())
def test_an_error_survives_the_process_boundary(name: str) -> None:
    before = tree()[name]("One sentence.")
    after = revive(name, before.message)
    assert type(after) is type(before)
    assert after.message == before.message


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    from tunesmith import errors

    for name, kind in tree().items():
        assert name in (errors.__doc__ or ""), f"{name} is not in the tree"
        assert kind is TunesmithError or kind.exit_code in (75, 78)
