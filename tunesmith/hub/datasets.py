"""One data file of a dataset repo, pinned to a commit and checked."""

import difflib
from pathlib import Path

from tunesmith.artifacts import FileEntry
from tunesmith.errors import CorruptArtifact, DataError
from tunesmith.hub.client import repo_cache
from tunesmith.hub.transfer.engine import bring
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.hub.transfer.supply import Asked, Supply
from tunesmith.specs.data import HubDataset
from tunesmith.store import sha256

SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet")


def fetch_dataset_file(spec: HubDataset, hub: str | None = None) -> Path:
    """The file's place in the Hugging Face cache, JSON Lines or Parquet; `hub` is an address, None the usual one.

    Raises DataError when the repo has no such file or it is of another kind, CorruptArtifact when its content is not
    what the hub lists, and what `Hub.list` raises.
    """
    if not spec.file.endswith(SUFFIXES):
        raise DataError(
            f"{spec.file} of {spec.repo} is neither JSON Lines nor Parquet: name a .jsonl or .parquet file."
        )
    source = HuggingFace(hub)
    supply = Supply([source], Asked(spec.repo, spec.revision, "dataset"))
    entries = {entry.path: entry for entry in supply.listed.files}
    if spec.file not in entries:
        raise DataError(f"{spec.repo} on {source.name} has no file {spec.file}: {_hint(spec.file, list(entries))}")
    entry = entries[spec.file]
    _discard_damaged(supply, entry)
    try:
        return bring(supply, [entry]).path / spec.file
    except CorruptArtifact as error:
        raise CorruptArtifact(
            f"{spec.file} of {spec.repo}, fetched twice, is not what {source.name} lists (its sha256 differs): "
            "use another hub in model.hub, or a local copy."
        ) from error


def _discard_damaged(supply: Supply, entry: FileEntry) -> None:
    """A file of the cache that has another content than listed is thrown away."""
    path = repo_cache(supply.asked.repo, "dataset") / "snapshots" / supply.listed.commit / entry.path
    if entry.sha256 and path.is_file() and sha256(path) != entry.sha256:
        path.resolve().unlink()
        path.unlink(missing_ok=True)


def _hint(wanted: str, known: list[str]) -> str:
    usable = [path for path in known if path.endswith(SUFFIXES)]
    nearest = difflib.get_close_matches(wanted, usable, n=1, cutoff=0.5)
    if nearest:
        return f"did you mean {nearest[0]}?"
    return f"it has {', '.join(usable[:5])}." if usable else "it has no JSON Lines or Parquet file at all."
