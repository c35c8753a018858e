"""Starting a run from the command line: the flow gets a process of its own, so that the core needs no Prefect."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tunesmith.environments import CHECKOUT
from tunesmith.errors import EnvironmentMissing, RecipeError, StageCrashed
from tunesmith.pipeline import STAGE_ORDER
from tunesmith.places import store_root
from tunesmith.specs.load import find_recipe, load_recipe, parse_overrides


def run(recipe: str, settings: list[str], store: Path | None, until: str | None) -> tuple[int, dict[str, Any]]:
    """Runs the flow to its end, its log on stderr; returns its exit code and its facts (`error`, `message` on failure).

    The recipe is validated first, so that a typo costs no server start.
    """
    overrides = parse_overrides(settings)
    load_recipe(recipe, overrides)
    _check_stage(until)
    request = {
        "recipe": _name_or_path(recipe),
        "overrides": overrides,
        "store": str((store or store_root()).expanduser().resolve()),
        "until": until,
    }
    done = subprocess.run(_command(request), cwd=_checkout(), env=_environment(), stdout=subprocess.PIPE, text=True)
    return done.returncode, _facts(done)


def _name_or_path(recipe: str) -> str:
    """A recipe of the checkout by its name, which reads better in a run's title; any other by its full path."""
    path = find_recipe(recipe).resolve()
    return path.stem if path.parent == CHECKOUT / "configs" else str(path)


def _command(request: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", "flows", json.dumps(request)]


def _checkout() -> Path:
    if not (CHECKOUT / "flows" / "finetune.py").exists():
        raise EnvironmentMissing(
            "flows/ is not beside the tunesmith package: run from a checkout (`git clone`, then `make env`)."
        )
    return CHECKOUT


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def _check_stage(until: str | None) -> None:
    if until is not None and until not in STAGE_ORDER:
        raise RecipeError(f"--until {until}: there is no such stage; the stages are {', '.join(STAGE_ORDER)}.")


def _facts(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    lines = done.stdout.strip().splitlines()
    try:
        facts = json.loads(lines[-1]) if lines else None
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise StageCrashed(f"The run ended with exit code {done.returncode} before it could report: see its log above.")
    return facts
