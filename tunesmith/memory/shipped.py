"""A model as its hub would describe it, from the table that ships with the package, or from a config.json alone."""

from collections.abc import Mapping
from typing import Any

from tunesmith.artifacts import FileEntry, ModelSource
from tunesmith.memory import catalogue
from tunesmith.memory.constants import GIB
from tunesmith.memory.shape import ModelShape

_SHARD_BYTES = 5 * GIB
"""Weight files that transformers writes are no larger."""


def shipped_source(repo: str) -> ModelSource | None:
    """The repo with its weight files, at no commit in particular; None for one that the table does not know."""
    config = catalogue.lookup(repo)
    if config is None:
        return None
    size = catalogue.weight_bytes(repo)
    return ModelSource(
        repo=repo, commit="0" * 40, files=entries(_split(size) if size else guessed_sizes(config)), config=config
    )


def guessed_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Bytes by name of 16-bit weights in files as transformers writes them."""
    return _split(2 * ModelShape.from_config(config).params)


def entries(sizes: Mapping[str, int]) -> tuple[FileEntry, ...]:
    return tuple(FileEntry(path=name, size=size) for name, size in sizes.items())


def _split(size: int) -> dict[str, int]:
    count = -(-size // _SHARD_BYTES)
    return {f"model-{number:05}-of-{count:05}.safetensors": -(-size // count) for number in range(1, count + 1)}
