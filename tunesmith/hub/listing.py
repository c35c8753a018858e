"""A recipe's model, pinned and described from metadata alone: kilobytes, before anything is decided."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.artifacts import FileEntry, ModelSource
from tunesmith.errors import ModelError, NoChatTemplate
from tunesmith.hub import gguf
from tunesmith.hub.choose import choose
from tunesmith.hub.transfer.engine import bring
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.hub.transfer.supply import Asked, Supply
from tunesmith.specs.model import ModelSpec
from tunesmith.store import sha256

_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_SMALL_BYTES = 32 << 20
"""No configuration file is larger; a hub that says so is not believed."""


def resolve_model(spec: ModelSpec, folder: Path) -> ModelSource:
    """The model at one commit: its files with sizes and digests, and its config.json; `folder` is the recipe's.

    Raises RepoNotFound, GatedRepo, OnlyPickles, NoChatTemplate, HubUnavailable, or ModelError, each saying what to do.
    """
    if spec.path is not None and spec.is_gguf:
        return gguf.from_disk(spec, folder)
    if spec.path is not None:
        return _from_folder(folder / Path(spec.path).expanduser(), spec)
    return _from_hub(HuggingFace(spec.hub), spec)


def _from_hub(source: HuggingFace, spec: ModelSpec) -> ModelSource:
    repo, revision = spec.repo or "", spec.revision
    supply = Supply([source], Asked(repo, revision, "model"))
    hub, listing = source.hub, supply.listed
    where = f"{repo} on {hub.address}"
    if spec.trust_remote_code and listing.commit != revision:
        raise ModelError(f"{where} is at {listing.commit}, not at {revision}: its code is not run.")
    if spec.gguf:
        return gguf.from_hub(supply, spec.gguf, where, hub.address)
    try:
        files = choose(listing.files, where, spec.trust_remote_code, spec.allow_pickles)
    except ModelError as error:
        raise (hub.not_cached(repo, revision) if hub.offline else error) from error
    entries = {entry.path: entry for entry in files}
    config = _describe(files, lambda path: bring(supply, [entries[path]]).path / path, where)
    return ModelSource(repo=repo, commit=listing.commit, files=files, endpoint=hub.address, config=config)


def _from_folder(folder: Path, spec: ModelSpec) -> ModelSource:
    """A folder's commit is the digest of what is used of it, so moving or renaming it changes no fingerprint."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}: check model.path, which starts at the recipe's own folder.")
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    listed = [FileEntry(path=path.relative_to(folder).as_posix(), size=path.stat().st_size) for path in paths]
    chosen = choose(listed, str(folder), spec.trust_remote_code, spec.allow_pickles)
    config = _describe(chosen, lambda path: folder / path, str(folder))
    files = tuple(entry.model_copy(update={"sha256": sha256(folder / entry.path)}) for entry in chosen)
    commit = hashlib.sha256(json.dumps([entry.identity() for entry in files]).encode()).hexdigest()[:40]
    return ModelSource(repo=f"local/{commit[:12]}", commit=commit, files=files, path=str(folder), config=config)


def _describe(files: tuple[FileEntry, ...], fetch: Callable[[str], Path], where: str) -> dict[str, Any]:
    """The model's config.json, once it is clear that chat rows can be rendered."""
    sizes = {entry.path: entry.size for entry in files}
    config = _read_json("config.json", sizes, fetch, where)
    has_code, has_template = any(path.endswith(".py") for path in sizes), any(name in sizes for name in _TEMPLATES)
    if has_template and not has_code:
        return config
    has_settings = "tokenizer_config.json" in sizes
    settings = _read_json("tokenizer_config.json", sizes, fetch, where) if has_settings else {}
    for said in (config, settings) if has_code else ():
        _check_code(said, where)
    if not has_template and not settings.get("chat_template"):
        raise NoChatTemplate(
            f"{where} has no chat template: use the instruction-tuned version of the model, "
            "or put a chat_template.jinja beside its tokenizer."
        )
    return config


def _check_code(settings: dict[str, Any], where: str) -> None:
    """`owner/name--module.Class` would be fetched from another repo, at whatever it holds by then."""
    named = json.dumps(settings.get("auto_map", {}))
    if "--" in named:
        raise ModelError(
            f"{where} runs code of another repo ({named}), which nothing pins: use a revision that brings its own code."
        )


def _read_json(path: str, sizes: dict[str, int], fetch: Callable[[str], Path], where: str) -> dict[str, Any]:
    if sizes[path] > _SMALL_BYTES:
        raise ModelError(f"{path} of {where} has {sizes[path]:,} bytes, too many for settings: use another revision.")
    try:
        content = json.loads(fetch(path).read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} of {where} is not valid JSON ({error}): use another revision or mend it.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} of {where} is not a JSON object: use another revision or mend it.")
    return content
