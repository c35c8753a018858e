"""Reading a recipe: name or path, overrides, and errors that name the nearest right key."""

import difflib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from tunesmith.environments import CHECKOUT
from tunesmith.errors import RecipeError
from tunesmith.specs.recipe import Recipe


def load_recipe(recipe: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The validated recipe from a path, or from `configs/<name>.yaml`, with dotted `overrides` laid over it.

    Raises RecipeError with one line per fault, each naming the key and, for a misspelt one, the nearest right key.
    """
    path = find_recipe(recipe)
    tree = {**_read_yaml(path), "folder": str(path.parent.resolve())}
    return make_recipe(tree, overrides or {}, path.name)


def make_recipe(tree: dict[str, Any], overrides: Mapping[str, Any], name: str) -> Recipe:
    """The recipe of a tree of keys with dotted `overrides` laid over it; `name` is what an error starts with."""
    for key, value in overrides.items():
        _override(tree, key, value)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{name}: " + "; ".join(_explain(fault) for fault in error.errors())) from error


def find_recipe(recipe: str) -> Path:
    """The file a recipe's path or name stands for."""
    tried = [Path(recipe), Path("configs") / f"{recipe}.yaml", CHECKOUT / "configs" / f"{recipe}.yaml"]
    for path in tried:
        if path.is_file():
            return path
    known = sorted(file.stem for file in (CHECKOUT / "configs").glob("*.yaml"))
    nearest = difflib.get_close_matches(recipe, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known recipes: {', '.join(known)}."
    raise RecipeError(f"There is no recipe {recipe}: {hint}")


def parse_overrides(settings: list[str]) -> dict[str, Any]:
    """`["train.epochs=1"]` -> `{"train.epochs": 1}`; values are read as YAML."""
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise RecipeError(f"--set {setting}: write it as key=value, for example --set train.epochs=1.")
        parsed[key] = yaml.safe_load(value)
    return parsed


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds no recipe: its top level must be keys such as name, model, data and train.")
    if "folder" in tree:
        raise RecipeError(f"{path.name}: folder: unknown key; relative paths start at the recipe's own folder.")
    return tree


def _override(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for key in parents:
        child = tree.get(key)
        if not isinstance(child, dict):
            child = tree[key] = {}
        tree = child
    tree[last] = value


def _explain(fault: Any) -> str:
    parent, keys = _walk(fault["loc"])
    where = ".".join(keys) or "recipe"
    if fault["type"] == "extra_forbidden" and parent is not None:
        known = [name for name in parent.model_fields if name != "folder"]
        nearest = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    message = fault["msg"].removeprefix("Value error, ")
    shown = f" (got {fault['input']!r})" if isinstance(fault["input"], str | int | float | bool) else ""
    return f"{where}: {message}{shown}"


def _walk(loc: tuple[int | str, ...]) -> tuple[type[BaseModel] | None, list[str]]:
    """The class that holds the last key of an error's location, and that location without union tags."""
    holders: list[type[BaseModel]] = [Recipe]
    parent: type[BaseModel] | None = Recipe
    keys: list[str] = []
    for part in loc:
        named = [h for h in holders if part in h.model_fields]
        if named:
            parent, keys = named[0], [*keys, str(part)]
            holders = _models(named[0].model_fields[str(part)].annotation)
        elif tagged := [h for h in holders if part == h.__name__ or part in _tags(h)]:
            parent, holders = tagged[0], tagged
        else:
            parent, keys = (holders[0] if holders else parent), [*keys, str(part)]
    return parent, keys


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for arm in get_args(annotation) for model in _models(arm)]
    return []


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    for name in ("method", "engine"):
        if name in model.model_fields:
            return get_args(model.model_fields[name].annotation)
    return ()
