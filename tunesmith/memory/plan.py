"""The plan: the fastest way to run the recipe that fits the hardware, or why there is none."""

from tunesmith import hardware as machine
from tunesmith.artifacts import Hardware, ModelSource, Plan
from tunesmith.errors import RecipeError
from tunesmith.memory.bill import Case
from tunesmith.memory.groups import check_group_size
from tunesmith.memory.refusal import machine_refusal, memory_refusal
from tunesmith.memory.search import first_fit
from tunesmith.memory.shape import ModelShape
from tunesmith.specs.parallel import ParallelSpec
from tunesmith.specs.recipe import Recipe
from tunesmith.specs.train import Full


def make_plan(recipe: Recipe, source: ModelSource, hardware: Hardware) -> Plan:
    """The fastest plan that leaves the recipe's headroom free in every phase; one GPU, or the CPU.

    Raises DoesNotFit with the bill and the nearest plan, GroupSizeError, ModelError for a config.json that says no
    sizes, and RecipeError for layers the model does not have.
    """
    case = make_case(recipe, source)
    if reason := machine.objection(recipe.hardware, hardware):
        raise machine_refusal(case, reason)
    usable = machine.available(recipe.hardware, hardware)
    if plan := first_fit(case, usable):
        return plan
    raise memory_refusal(case, usable)


def launchable(recipe: Recipe) -> Recipe:
    """The recipe held to what the train stage can start: one process on one GPU, with nothing offloaded.

    Raises RecipeError when it states otherwise.
    """
    asked = recipe.parallel
    if asked.strategy not in ("auto", "single") or asked.offload not in ("auto", "none") or (asked.world_size or 1) > 1:
        raise RecipeError(
            "parallel: training over several GPUs or with offload can be estimated, but is not started by a run yet: "
            "leave parallel out."
        )
    alone = ParallelSpec(strategy="single", world_size=1, offload="none")
    hardware = recipe.hardware.model_copy(update={"gpus": 1})
    return recipe.model_copy(update={"parallel": alone, "hardware": hardware})


def make_case(recipe: Recipe, source: ModelSource) -> Case:
    """The recipe with its model's shape, checked against each other."""
    shape = ModelShape.from_config(source.config)
    _check_targets(recipe, shape)
    check_group_size(recipe.quantize, shape)
    return Case(recipe, source, shape)


def _check_targets(recipe: Recipe, shape: ModelShape) -> None:
    """Layer names can be checked where the architecture is known."""
    train = recipe.train
    if isinstance(train, Full) or train.targets == "all-linear" or shape.note:
        return
    unknown = [target for target in train.targets if not shape.adapted((target,))]
    if unknown or not train.targets:
        raise RecipeError(
            f"train.targets: the model has no linear layer named {' or '.join(unknown) or '(none given)'}; "
            f"choose from {', '.join(linear.name for linear in shape.linears)}, or write all-linear."
        )
