"""A recipe's model, pinned and described before anything is decided: its listing, and its small files."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.artifacts import FileEntry, ModelSource
from tunesmith.errors import ModelError, NoChatTemplate
from tunesmith.hub import gguf
from tunesmith.hub.choose import choose
from tunesmith.hub.client import repo_cache
from tunesmith.hub.transfer.damage import throw_away_wrong
from tunesmith.hub.transfer.engine import bring
from tunesmith.hub.transfer.report import Report, Silent
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.hub.transfer.sources.words import Named, of_recipe
from tunesmith.hub.transfer.supply import Asked, Supply
from tunesmith.specs.model import ModelSpec
from tunesmith.store import sha256

_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_SMALL_BYTES = 32 << 20
"""No configuration file is larger; a hub that says so is not believed."""


def resolve_model(spec: ModelSpec, folder: Path, report: Report | None = None) -> ModelSource:
    """The model at one commit, every file of it by its sha256, and its config.json; `folder` is the recipe's.

    The small files that no source gives a sha256 for are brought, a few MB, so that the model is the same one wherever
    it was listed. Raises RepoNotFound, GatedRepo, OnlyPickles, NoChatTemplate, HubUnavailable, or ModelError, each
    saying what to do.
    """
    if spec.path is not None and spec.is_gguf:
        return gguf.from_disk(spec, folder)
    if spec.path is not None:
        return _from_folder(folder / Path(spec.path).expanduser(), spec)
    report = report or Silent()
    supply, source = _find(spec, folder, report)
    unnamed = [entry for entry in source.files if entry.sha256 is None and entry.size <= _SMALL_BYTES]
    there = _bring(supply, unnamed, report)
    digests = {entry.path: sha256(there / entry.path) for entry in unnamed}
    files = (entry.model_copy(update={"sha256": digests.get(entry.path, entry.sha256)}) for entry in source.files)
    return source.model_copy(update={"files": tuple(files)})


def describe_model(spec: ModelSpec, folder: Path) -> ModelSource:
    """The same from metadata alone, kilobytes: enough for an estimate, and not to tell two commits apart."""
    if spec.path is not None:
        return _from_folder(folder / Path(spec.path).expanduser(), spec)
    return _find(spec, folder, Silent())[1]


def _find(spec: ModelSpec, folder: Path, report: Report) -> tuple[Supply, ModelSource]:
    """The model as the first source that answers lists it; code is taken from the commit that was named alone."""
    repo, revision, named = spec.repo or "", spec.revision, _sources(spec, folder)
    supply = Supply([one.source for one in named], Asked(repo, revision, "model", exact=spec.trust_remote_code))
    listing, lister = supply.listed, named[supply.by or 0]
    where = f"{repo} on {lister.source.name}"
    if spec.trust_remote_code and listing.commit != revision:
        raise ModelError(f"{where} is at {listing.commit}, not at {revision}: its code is not run.")
    try:
        files, config = _chosen(supply, spec, where, report)
    except ModelError as error:
        raise (_not_cached(lister, repo, revision) or error) from error
    source = ModelSource(
        repo=repo,
        commit=listing.commit,
        files=files,
        endpoint=lister.word,
        sources=tuple(one.word for one in named),
        revision=revision,
        xet=spec.xet,
        config=config,
    )
    return supply, source


def _chosen(
    supply: Supply, spec: ModelSpec, where: str, report: Report
) -> tuple[tuple[FileEntry, ...], dict[str, Any]]:
    """The files to download, and config.json's content."""
    if spec.gguf:
        entry, config = gguf.on_hub(supply, spec.gguf, where)
        return (entry,), config
    files = choose(supply.listed.files, where, spec.trust_remote_code, spec.allow_pickles)
    entries = {entry.path: entry for entry in files}
    return files, _describe(files, lambda path: _bring(supply, [entries[path]], report) / path, where)


def _sources(spec: ModelSpec, folder: Path) -> list[Named]:
    if spec.sources:
        return of_recipe(spec.sources, folder, "model.sources")
    hub = HuggingFace(spec.hub)
    return [Named(hub.name, hub)]


def _not_cached(lister: Named, repo: str, revision: str) -> ModelError | None:
    """What is wrong with an offline listing that lacks files."""
    hub = lister.source.hub if isinstance(lister.source, HuggingFace) else None
    return hub.not_cached(repo, revision) if hub and hub.offline else None


def _bring(supply: Supply, entries: list[FileEntry], report: Report) -> Path:
    """The snapshot, with these small files in it; what the cache has of them already is hashed first."""
    snapshot = repo_cache(supply.asked.repo) / "snapshots" / supply.listed.commit
    throw_away_wrong(snapshot, entries, report.note)
    return bring(supply, entries, report=report).path if entries else snapshot


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
