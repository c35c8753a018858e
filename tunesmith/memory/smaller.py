"""A smaller model of the same family, for one that does not fit."""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import cache

from tunesmith.artifacts import Hardware, ModelSource, Plan
from tunesmith.errors import TunesmithError
from tunesmith.memory import catalogue
from tunesmith.memory.bill import Case
from tunesmith.memory.groups import check_group_size
from tunesmith.memory.search import first_fit
from tunesmith.memory.shape import ModelShape
from tunesmith.memory.shipped import shipped_source
from tunesmith.specs.train import Full

_SIZE = re.compile(r"(?<![a-z0-9.])\d+(?:\.\d+)?(?:x\d+)?[bm](?![a-z0-9])(?:-a\d+b)?")
"""What in a repo's name, in lower case, says how large the model is."""
_MINOR = re.compile(r"(?<=\d)\.\d+")
_TUNED = re.compile(r"instruct|chat|(?<![a-z])it(?![a-z])")
"""What in it says that the model answers already."""

_CLEARLY = 0.9
"""Share of the parameters that a smaller model has at most."""
Known = tuple[ModelSource, ModelShape]


def smaller_model(case: Case, hardware: Hardware) -> tuple[str, Plan] | None:
    """The largest smaller model of the family that fits, and its plan.

    A family is what differs by the size in its name alone; where none of those fits, by its minor version too; then the
    owner's models of the same architecture; then everybody's.
    """
    nearest_first = {source.repo: (source, shape) for source, shape in _kin(case.source.repo.lower(), case.shape)}
    for source, shape in nearest_first.values():
        tried = Case(case.recipe, source, shape)
        if _is_possible(tried) and (plan := first_fit(tried, hardware)):
            return source.repo, plan
    return None


def _kin(name: str, shape: ModelShape) -> Iterator[Known]:
    """The nearest relatives first, of each circle the largest first; the same one may come again."""
    alike = [
        (source, other)
        for source, other in _known()
        if other.model_type == shape.model_type
        and other.params < _CLEARLY * shape.params
        and bool(_TUNED.search(source.repo.lower())) == bool(_TUNED.search(name))
    ]
    alike.sort(key=lambda one: (-one[1].params, -SequenceMatcher(None, one[0].repo.lower(), name).ratio()))
    for circle in (_family, _generation, _owner, lambda name: ""):
        yield from (one for one in alike if circle(one[0].repo.lower()) == circle(name))


def _family(name: str) -> str:
    return _SIZE.sub("", name)


def _generation(name: str) -> str:
    return _MINOR.sub("", _family(name))


def _owner(name: str) -> str:
    return name.partition("/")[0]


@cache
def _known() -> tuple[Known, ...]:
    """The table's models."""
    sources = filter(None, map(shipped_source, catalogue.known()))
    return tuple((source, ModelShape.from_config(source.config)) for source in sources)


def _is_possible(case: Case) -> bool:
    """Whether what the recipe says of layers and groups makes sense for the model."""
    train = case.recipe.train
    targets = () if isinstance(train, Full) or train.targets == "all-linear" else train.targets
    if not all(case.shape.adapted((target,)) for target in targets):
        return False
    try:
        check_group_size(case.recipe.quantize, case.shape)
    except TunesmithError:
        return False
    return True
