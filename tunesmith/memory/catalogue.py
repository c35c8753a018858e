"""The shapes of common models, so that these can be billed before anything is fetched.

A file of `models/` holds the keys of one config.json that memory depends on. Beside them it names where they are from
(`_source`) and the repos that share the shape (`_repos`, each with the bytes of its safetensors weights, where known).
"""

import json
from copy import deepcopy
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple


class _Entry(NamedTuple):
    repo: str
    """As the hub spells it."""
    weight_bytes: int | None
    config: dict[str, Any]


def lookup(repo: str) -> dict[str, Any] | None:
    """What matters of the config.json of a repo, and its `_source`; None when the repo is not known."""
    entry = _entries().get(repo.lower())
    return deepcopy(entry.config) if entry else None


def weight_bytes(repo: str) -> int | None:
    """Bytes of the repo's safetensors weights as published, in whatever precision; None where they are not known."""
    entry = _entries().get(repo.lower())
    return entry.weight_bytes if entry else None


def known() -> tuple[str, ...]:
    """The repos that can be looked up, in alphabetical order."""
    return tuple(sorted((entry.repo for entry in _entries().values()), key=str.lower))


def nearest(repo: str) -> str | None:
    """The known repo whose name is most like this one, for a message; None when none is."""
    entries = _entries()
    return next((entries[name].repo for name in get_close_matches(repo.lower(), entries, n=1)), None)


@cache
def _entries() -> dict[str, _Entry]:
    """By repo in lower case; the hub takes no notice of case either."""
    found: dict[str, _Entry] = {}
    for file in files("tunesmith.memory").joinpath("models").iterdir():
        config = json.loads(file.read_text(encoding="utf-8"))
        for repo, size in config.pop("_repos").items():
            found[repo.lower()] = _Entry(repo, size, config)
    return found
