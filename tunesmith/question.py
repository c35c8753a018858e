"""What an estimate is asked about: a recipe, a model of a hub, a GGUF, or a folder with a config.json; and on which
machine.
"""

import json
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tunesmith import hardware
from tunesmith.artifacts import Device, Hardware, ModelSource
from tunesmith.errors import HubUnavailable, ModelError, RecipeError
from tunesmith.hub.gguf_names import SUFFIX, is_gguf, only_gguf
from tunesmith.memory import catalogue
from tunesmith.memory.cards import CARDS, find_card
from tunesmith.memory.constants import GIB
from tunesmith.memory.shipped import entries, guessed_sizes, shipped_source
from tunesmith.specs.load import find_recipe, load_recipe, make_recipe
from tunesmith.specs.recipe import Recipe

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_REACH_SECONDS = 1.0
_AMPLE_BYTES = 2**50
"""Host memory of a machine that is only spoken of."""


class Machine(NamedTuple):
    """What the command line says of the hardware; all unset: this machine."""

    gpus: int | None = None
    memory_gib: float | None = None
    card: str | None = None


class Question(NamedTuple):
    recipe: Recipe
    source: ModelSource
    machine: Hardware | None
    """None: the smallest single card that would do is to be found."""


def pose(target: str, settings: dict[str, Any], machine: Machine) -> Question:
    """The question that the words of a command mean.

    Raises RecipeError for settings and machines that make no sense, ModelError for a config.json that says no sizes,
    RepoNotFound, and HubUnavailable for a model that no table knows while its hub does not answer.
    """
    recipe, source = _subject(target, settings)
    sized, told = _sized(recipe, machine), _told(machine, recipe)
    is_recipe = source is None
    source = source or _source_of(sized, target)
    return Question(sized, source, told or (hardware.detect() if is_recipe else None))


def _subject(target: str, settings: dict[str, Any]) -> tuple[Recipe, ModelSource | None]:
    """The recipe, and the source where the target is no recipe itself."""
    if not target:
        raise RecipeError("Name what to estimate: a recipe, a repo such as Qwen/Qwen2.5-7B-Instruct, or a folder.")
    folder = Path(target).expanduser()
    if folder.suffix == SUFFIX and folder.is_file():
        recipe = _bare(folder.stem.lower(), {"path": str(folder.resolve())}, settings)
        return recipe, described_source(recipe)
    if folder.is_dir():
        return _bare("folder", {"path": str(folder.resolve())}, settings), folder_source(folder)
    if _REPO.fullmatch(target) and not folder.exists():
        recipe = _bare(target.partition("/")[2].lower(), {"repo": target}, settings)
        return recipe, hub_source(recipe)
    return load_recipe(target, settings), None


def _source_of(recipe: Recipe, target: str) -> ModelSource:
    if recipe.model.is_gguf:
        return described_source(recipe)
    if recipe.model.path:
        return folder_source(find_recipe(target).parent / recipe.model.path)
    return hub_source(recipe)


def described_source(recipe: Recipe) -> ModelSource:
    """A model that only its own file describes: a GGUF."""
    if recipe.model.path:
        from tunesmith.hub.gguf import from_disk

        return from_disk(recipe.model, Path(recipe.folder), hashed=False)
    from tunesmith.hub.listing import describe_model

    return describe_model(recipe.model, Path(recipe.folder))


def folder_source(folder: Path) -> ModelSource:
    """A folder with a config.json; weights may be there, or not yet."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if is_gguf(names := [file.name for file in folder.glob(f"*{SUFFIX}")]):
            raise only_gguf(names, str(folder)) from error
        raise ModelError(f"There is no config.json in {folder}: name a model's folder, a repo or a recipe.") from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}): fetch the model's own file again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object: fetch the model's own file again.")
    sizes = {file.name: file.stat().st_size for file in sorted(folder.glob("*.safetensors"))}
    return ModelSource(
        repo=f"local/{folder.name}", commit="0" * 40, files=entries(sizes or guessed_sizes(config)), config=config
    )


def hub_source(recipe: Recipe) -> ModelSource:
    """The hub's own description where it can be had, else the one that ships with the package."""
    if recipe.model.is_gguf:
        return described_source(recipe)
    repo = str(recipe.model.repo)
    shipped = catalogue.lookup(repo)
    if shipped is None or _is_reachable(recipe.model.words):
        try:
            from tunesmith.hub.listing import describe_model

            return describe_model(recipe.model, Path(recipe.folder))
        except (HubUnavailable, ModelError) as error:
            # A table's entry will do where the repo wants a token, or has no chat template yet.
            if shipped is None:
                raise (_unknown(repo, error) if isinstance(error, HubUnavailable) else error) from error
    found = shipped_source(repo)
    assert found is not None
    return found


def _unknown(repo: str, error: HubUnavailable) -> HubUnavailable:
    nearest = catalogue.nearest(repo)
    hint = f" did you mean {nearest}?" if nearest else ""
    return HubUnavailable(f"{repo} is not in the table of common models, and {error.message}{hint}")


def _is_reachable(words: Sequence[str]) -> bool:
    """Whether a source is a folder, or its host takes a connection soon."""
    from huggingface_hub import constants

    addresses = [_address(word) for word in words or ("hf",)]
    if None in addresses:
        return True
    return not constants.HF_HUB_OFFLINE and any(_takes_connections(address) for address in addresses if address)


def _address(word: str) -> str | None:
    """Of a source; None for a folder."""
    name, _, address = word.partition("=")
    if word == "hf":
        return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if name == "modelscope":
        return address or os.environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn"
    return word if word.startswith(("http://", "https://")) else None


def _takes_connections(address: str) -> bool:
    """Behind a proxy that is not to be found out like this."""
    parts = urlsplit(address)
    if os.environ.get(f"{parts.scheme}_proxy") or os.environ.get(f"{parts.scheme.upper()}_PROXY"):
        return True
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((str(parts.hostname), port), timeout=_REACH_SECONDS).close()
    except OSError:
        return False
    return True


def _bare(name: str, model: dict[str, Any], settings: dict[str, Any]) -> Recipe:
    """A recipe for a model alone: LoRA with the defaults, and what is set."""
    length = {} if "train.max_steps" in settings else {"epochs": 1}
    tree = {
        "name": re.sub(r"[^a-z0-9._-]", "-", name)[:60].strip("-._") or "model",
        "model": model,
        "data": {"train": "train.jsonl", "evaluation": "heldout.jsonl"},
        "train": {"method": "lora", **length},
    }
    return make_recipe(tree, settings, "--set")


def _sized(recipe: Recipe, machine: Machine) -> Recipe:
    """The recipe on as many GPUs as the command line, or its own world size, says."""
    count = machine.gpus or recipe.parallel.world_size
    if machine.gpus is not None and machine.gpus < 1:
        raise RecipeError(f"--gpus {machine.gpus}: at least one is needed.")
    if count is None:
        return recipe
    return recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update={"gpus": count})})


def _told(machine: Machine, recipe: Recipe) -> Hardware | None:
    """The machine the command line speaks of, with the GPUs the recipe spreads over; None when it says nothing."""
    if machine.gpus is None and machine.memory_gib is None and machine.card is None:
        return None
    if machine.card and machine.memory_gib:
        raise RecipeError("--gpu and --gpu-memory say the same thing: give one of them.")
    if machine.memory_gib is not None and machine.memory_gib <= 0:
        raise RecipeError(f"--gpu-memory {machine.memory_gib:g}: it must be more than 0 GiB.")
    device = find_card(machine.card) if machine.card else None
    if device is None and machine.memory_gib is not None:
        device = Device(name=f"{machine.memory_gib:g} GiB GPU", memory_bytes=int(machine.memory_gib * GIB))
    found = hardware.detect()
    device = device or (found.devices[0] if found.device == "cuda" else CARDS[2])
    return Hardware(
        device="cuda",
        devices=(device,) * (machine.gpus or recipe.parallel.world_size or 1),
        ram_bytes=_AMPLE_BYTES,
        cores=found.cores,
    )
