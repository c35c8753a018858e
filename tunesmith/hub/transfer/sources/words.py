"""What a person calls a source: `hf`, `modelscope`, `modelscope=https://…`, `https://…`, or a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants

from tunesmith.errors import ModelError
from tunesmith.hub.transfer.source import Source
from tunesmith.hub.transfer.sources.folder import Folder
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.hub.transfer.sources.modelscope import ModelScope


class Named(NamedTuple):
    """A source, and the word that means the same one wherever it is read."""

    word: str
    """The address of a hub, `modelscope=` and an address, or an absolute path."""
    source: Source


def parse_source(text: str, key: str = "--source", folder: Path | None = None, cache: Path | None = None) -> Named:
    """The source that a word means; a relative path starts at `folder`, else where this process runs.

    `key` is who says it, for errors; `cache` is where a hub's files are looked for offline. Raises ModelError.
    """
    name, _, address = text.partition("=")
    if text == "hf" or text.startswith(("http://", "https://")):
        hub = HuggingFace(None if text == "hf" else text, cache)
        return Named(hub.name, hub)
    if name == "modelscope":
        site = ModelScope(address or None)
        return Named(f"modelscope={site.address}", site)
    place = (folder or Path()) / Path(text).expanduser()
    if text and place.is_dir():
        return Named(str(place.resolve()), Folder(place))
    if "://" not in text and (text.startswith((".", "~")) or "/" in text):
        start = ", where relative paths start at the recipe's own folder" if folder else ""
        raise ModelError(f"There is no folder {place}: check {key}{start}.")
    raise ModelError(
        f"{text!a} in {key} is no source: name hf, modelscope, the URL of a hub, or a folder that is there."
    )


def of_recipe(words: Sequence[str], folder: Path, key: str) -> list[Named]:
    """A recipe's sources in its order; with HF_HUB_OFFLINE, what the cache holds comes before all of them."""
    found = [parse_source(word, key, folder) for word in words or ("hf",)]
    if constants.is_offline_mode() and not isinstance(found[0].source, HuggingFace):
        return [parse_source("hf"), *found]
    return found


def reopened(words: Sequence[str], note: Callable[[str], None]) -> list[Named]:
    """The sources of words that `Named` gave; one that is no longer there is left out while there are others."""
    found: list[Named] = []
    gone: list[ModelError] = []
    for word in words:
        try:
            found.append(parse_source(word, "model.sources"))
        except ModelError as error:
            gone.append(error)
    if not found:
        raise gone[0]
    for one in gone:
        note(f"{one.message} Going on with the next source.")
    return found
