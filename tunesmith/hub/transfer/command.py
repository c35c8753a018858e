"""What `tunesmith download` and `tunesmith verify` do with their words."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from tunesmith.errors import ModelError
from tunesmith.hub.transfer.display import shown
from tunesmith.hub.transfer.engine import fetch
from tunesmith.hub.transfer.recheck import recheck
from tunesmith.hub.transfer.source import Kind
from tunesmith.hub.transfer.sources.words import parse_source

_DATASETS = "datasets/"
_MOST_CONNECTIONS = 64


def download(
    target: str, sources: Sequence[str], include: Sequence[str], cache: Path | None, connections: int, xet: bool
) -> dict[str, Any]:
    """Brings a repo into the cache and shows how it goes; the Result's facts. Raises what `fetch` raises."""
    if not 1 <= connections <= _MOST_CONNECTIONS:
        raise ModelError(f"--connections is {connections}: name a number from 1 to {_MOST_CONNECTIONS}.")
    repo, revision, kind = parse_target(target)
    found = [parse_source(text, cache=cache).source for text in sources or ("hf",)]
    with shown() as report:
        return fetch(found, repo, revision, kind, include, cache, connections, report, xet=xet).facts()


def verify(target: str, cache: Path | None) -> dict[str, Any]:
    """Hashes what the cache holds of a repo; names what is wrong. Raises ModelError when it holds nothing."""
    repo, revision, kind = parse_target(target)
    return recheck(cache or Path(constants.HF_HUB_CACHE), repo, revision, kind).facts()


def tell_download(facts: dict[str, Any]) -> None:
    """For people: where it is, and what it took."""
    received, reused = facts["bytes_received"] / 1e6, facts["bytes_reused"] / 1e6
    print(facts["path"])
    print(
        f"{received:,.1f} MB received in {facts['seconds']:,.1f} s, {reused:,.1f} MB were there; "
        f"{facts['verified']} files verified.",
        file=sys.stderr,
    )


def tell_verify(facts: dict[str, Any]) -> None:
    """For people: the names of wrong files, each on a line."""
    for path in facts["wrong"]:
        print(f"wrong: {path}")
    for path in facts["unnamed"]:
        print(f"not known: {path} (the cache does not say what it should be)")
    print(f"{facts['files'] - len(facts['wrong']) - len(facts['unnamed'])} of {facts['files']} files are right.")


def parse_target(text: str) -> tuple[str, str, Kind]:
    """`owner/name[@revision]`, of a data set when `datasets/` stands before it."""
    name, _, revision = text.partition("@")
    kind: Kind = "dataset" if name.startswith(_DATASETS) and name.count("/") > 1 else "model"
    return name.removeprefix(_DATASETS) if kind == "dataset" else name, revision or "main", kind
