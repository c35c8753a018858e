"""Solving backwards: the largest length, micro-batch or rank that still fits, or the fewest GPUs that do."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from tunesmith.artifacts import Hardware, Plan
from tunesmith.errors import DoesNotFit, RecipeError
from tunesmith.memory.bill import Case
from tunesmith.memory.search import first_fit
from tunesmith.specs.recipe import Recipe
from tunesmith.specs.train import Full

Unknown = Literal["max_length", "micro_batch_size", "rank", "gpus"]
_CEILING: dict[Unknown, int] = {"max_length": 1 << 20, "micro_batch_size": 4096, "rank": 4096, "gpus": 1024}


class Solution(NamedTuple):
    unknown: Unknown
    value: int
    plan: Plan
    """The plan with that value."""


def solve(unknown: str, case: Case, hardware: Hardware) -> Solution:
    """The largest value of `unknown` (of `gpus` the smallest) with which the recipe fits; the rest as it is.

    Raises RecipeError for a name that cannot be solved for, DoesNotFit when no value does.
    """
    name = _named(unknown, case.recipe)
    if name == "gpus":
        return _fewest_gpus(case, hardware)

    def plan(value: int) -> Plan | None:
        return first_fit(case._replace(recipe=_with(case.recipe, name, value)), hardware)

    value = largest(lambda value: plan(value) is not None, _floor(name), _CEILING[name])
    found = plan(value) if value else None
    if value is None or found is None:
        raise DoesNotFit(f"No {name} fits: even {_floor(name)} is too much for this hardware; choose a smaller model.")
    return Solution(name, value, found)


def largest(fits: Callable[[int], bool], low: int, high: int) -> int | None:
    """The largest value from low to high that fits, where whatever is smaller than a fitting one fits; None if none."""
    if not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _named(unknown: str, recipe: Recipe) -> Unknown:
    for name in get_args(Unknown):
        if name == unknown.removeprefix("train."):
            if name == "rank" and isinstance(recipe.train, Full):
                raise RecipeError("--solve rank: full fine-tuning has no rank; choose lora or qlora.")
            known: Unknown = name
            return known
    raise RecipeError(f"--solve {unknown}: choose from {', '.join(get_args(Unknown))}.")


def _floor(name: Unknown) -> int:
    return 8 if name == "max_length" else 1


def _with(recipe: Recipe, name: Unknown, value: int) -> Recipe:
    """A micro-batch is solved for with the effective batch that it makes alone, everything in one pass."""
    changed: dict[str, int] = {name: value}
    if name == "micro_batch_size":
        changed["batch_size"] = value * (recipe.parallel.world_size or recipe.hardware.gpus or 1)
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=changed)})


def _fewest_gpus(case: Case, hardware: Hardware) -> Solution:
    """Counts that do not divide the effective batch cannot share it out evenly."""
    batch, micro = case.recipe.train.batch_size, case.recipe.train.micro_batch_size or 1
    counts = [count for count in range(1, min(batch, _CEILING["gpus"]) + 1) if batch % (count * micro) == 0]
    for count in counts:
        more = hardware.model_copy(update={"devices": hardware.devices[:1] * count})
        if plan := first_fit(case, more):
            return Solution("gpus", count, plan)
    raise DoesNotFit(
        f"Not even {counts[-1]} GPUs, one per row of train.batch_size, hold it: choose a larger GPU or batch_size."
    )
