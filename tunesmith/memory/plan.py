"""The plan: the fastest way to run the recipe that fits the hardware, or why there is none."""

from tunesmith import hardware as machine
from tunesmith.artifacts import Hardware, ModelSource, Plan
from tunesmith.errors import RecipeError
from tunesmith.memory.base import check_base
from tunesmith.memory.bill import Case
from tunesmith.memory.cards import CARDS
from tunesmith.memory.groups import check_group_size
from tunesmith.memory.linears import EXPERT_NAMES
from tunesmith.memory.loadable import check_loadable
from tunesmith.memory.refusal import (
    card_words,
    machine_refusal,
    machine_with,
    memory_refusal,
    most_frugal,
    smallest_card,
    unconfirmed_refusal,
)
from tunesmith.memory.search import first_fit
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.unknown import Simulate, is_simulated, looked_into
from tunesmith.specs.parallel import ParallelSpec
from tunesmith.specs.recipe import Recipe
from tunesmith.specs.train import Full, QLora


def make_plan(recipe: Recipe, source: ModelSource, hardware: Hardware, simulate: Simulate | None = None) -> Plan:
    """The fastest plan that leaves the recipe's headroom free in every phase; one GPU, or the CPU.

    Of an architecture that the bill does not know, `simulate` is asked. Raises DoesNotFit with the bill and the nearest
    plan, GroupSizeError, ModelError for a config.json that says no sizes, and RecipeError for layers the model does not
    have, or a quantization that the server does not load.
    """
    case, usable = make_ready(recipe, source, hardware)
    check_shares(recipe, len(usable.devices))
    if case.shape.note:
        case = looked_into(case, lambda case: first_fit(case, usable), lambda case: most_frugal(case, usable), simulate)
    plan = first_fit(case, usable)
    if plan is None:
        raise memory_refusal(case, usable)
    return _confirmed(case, plan)


def on_smallest_card(recipe: Recipe, source: ModelSource, simulate: Simulate | None = None) -> tuple[Plan, str]:
    """The plan on the smallest single GPU of the table that would do, and that GPU's name; raises as make_plan does."""
    case, largest = make_case(recipe, source), machine_with(len(CARDS) - 1)
    check_loadable(recipe, case.shape, "cuda", CARDS[-1])
    if case.shape.note:
        case = looked_into(case, _on_a_card, lambda case: most_frugal(case, largest), simulate)
    found = smallest_card(case)
    if found is None:
        raise memory_refusal(case, largest, f"on {card_words(len(CARDS) - 1)}")
    return _confirmed(case, found.plan), found.words


def _on_a_card(case: Case) -> Plan | None:
    found = smallest_card(case)
    return found.plan if found else None


def _confirmed(case: Case, plan: Plan) -> Plan:
    if case.shape.note and not is_simulated(case, plan):
        raise unconfirmed_refusal(case, plan)
    return plan


def make_ready(recipe: Recipe, source: ModelSource, hardware: Hardware) -> tuple[Case, Hardware]:
    """The case, and what of the machine it uses: `single` is one GPU, however many it may use.

    Raises what make_plan raises of a recipe that could not run, or be served, whatever it needs.
    """
    case = make_case(recipe, source)
    if reason := machine.objection(recipe.hardware, hardware):
        raise machine_refusal(case, hardware, reason)
    usable = machine.available(recipe.hardware, hardware)
    check_loadable(recipe, case.shape, usable.device, usable.devices[0])
    count = 1 if recipe.parallel.strategy == "single" else len(usable.devices)
    return case, usable.model_copy(update={"devices": usable.devices[:count]})


def check_shares(recipe: Recipe, gpus: int) -> None:
    """Raises RecipeError unless every GPU takes as many rows of the effective batch, in whole micro-batches."""
    batch, micro = recipe.train.batch_size, recipe.train.micro_batch_size or 1
    if batch % (micro * gpus):
        raise RecipeError(
            f"train.batch_size {batch} cannot be shared over {gpus} GPUs in micro-batches of {micro}: "
            f"choose a multiple of {micro * gpus}."
        )


def launchable(recipe: Recipe) -> Recipe:
    """The recipe held to what the train stage can start: one process on one GPU, with nothing offloaded.

    It may ask for more GPUs, as its plan's summary says then. Raises RecipeError where it states how to spread.
    """
    asked = recipe.parallel
    if asked.strategy not in ("auto", "single") or asked.offload not in ("auto", "none") or (asked.world_size or 1) > 1:
        raise RecipeError(
            "parallel: training over several GPUs or with offload can be estimated, but is not started by a run yet: "
            "leave parallel out."
        )
    alone = ParallelSpec(strategy="single", world_size=1, offload="none")
    return recipe.model_copy(update={"parallel": alone})


def make_case(recipe: Recipe, source: ModelSource) -> Case:
    """The recipe with its model's shape, checked against each other."""
    check_base(source)
    shape = ModelShape.from_config(source.config)
    _check_targets(recipe, shape)
    _check_attention(recipe, shape)
    _check_strategy(recipe)
    check_group_size(recipe.quantize, shape)
    return Case(recipe, source, shape)


def _check_attention(recipe: Recipe, shape: ModelShape) -> None:
    if shape.softcap and recipe.train.attention == "sdpa":
        raise RecipeError(
            f"train.attention sdpa: {shape.model_type} caps its attention scores, which torch's fused kernels cannot: "
            "write eager, or leave it out."
        )


def _check_strategy(recipe: Recipe) -> None:
    if isinstance(recipe.train, QLora) and recipe.parallel.strategy == "zero3":
        raise RecipeError("parallel.strategy zero3: DeepSpeed does not shard packed weights: choose fsdp, or lora.")


def _check_targets(recipe: Recipe, shape: ModelShape) -> None:
    """Layer names can be checked where the architecture is known."""
    train = recipe.train
    if isinstance(train, Full) or train.targets == "all-linear" or shape.note:
        return
    unknown = [target for target in train.targets if not shape.adapted((target,))]
    known = ", ".join(linear.name for linear in shape.adapted("all-linear"))
    if experts := sorted(EXPERT_NAMES & set(unknown)) if shape.experts else []:
        raise RecipeError(
            f"train.targets: {' and '.join(experts)} would be the routed experts', whose adapters cannot be merged; "
            f"choose from {known}, or write all-linear for all of these."
        )
    if unknown or not train.targets:
        raise RecipeError(
            f"train.targets: the model has no linear layer named {' or '.join(unknown) or '(none given)'}; "
            f"choose from {known}, or write all-linear."
        )
