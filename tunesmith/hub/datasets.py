"""One data file of a dataset repo, pinned to a commit and checked."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from tunesmith.errors import CorruptArtifact, DataError
from tunesmith.hub.client import repo_cache
from tunesmith.hub.transfer.damage import throw_away_wrong
from tunesmith.hub.transfer.engine import bring
from tunesmith.hub.transfer.source import Source
from tunesmith.hub.transfer.sources.folder import Folder
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.hub.transfer.sources.words import of_recipe
from tunesmith.hub.transfer.supply import Asked, Supply
from tunesmith.specs.data import HubDataset

SUFFIXES = (".jsonl", ".json", ".ndjson", ".parquet")


def fetch_dataset_file(spec: HubDataset, of_model: Sequence[str] = (), folder: Path | None = None) -> Path:
    """The file's place in the Hugging Face cache, JSON Lines or Parquet.

    It comes from the sources of the data set, else those of the model, `of_model`; relative folders start at `folder`.
    Raises DataError when the repo has no such file or it is of another kind, CorruptArtifact when its content is not
    what is listed, ModelError for a word that is no source, and what the sources raise.
    """
    if not spec.file.endswith(SUFFIXES):
        raise DataError(
            f"{spec.file} of {spec.repo} is neither JSON Lines nor Parquet: name a .jsonl or .parquet file."
        )
    supply = Supply(_sources(spec, of_model, folder or Path()), Asked(spec.repo, spec.revision, "dataset"))
    name = supply.sources[supply.by or 0].name
    entries = {entry.path: entry for entry in supply.listed.files}
    if spec.file not in entries:
        raise DataError(f"{spec.repo} on {name} has no file {spec.file}: {_hint(spec.file, list(entries))}")
    entry = entries[spec.file]
    snapshot = repo_cache(spec.repo, "dataset") / "snapshots" / supply.listed.commit
    throw_away_wrong(snapshot, [entry], lambda text: None)
    try:
        return bring(supply, [entry]).path / spec.file
    except CorruptArtifact as error:
        raise CorruptArtifact(
            f"{spec.file} of {spec.repo}, fetched twice, is not what {name} lists (its sha256 differs): "
            "use another hub in model.hub, or a local copy."
        ) from error


def _sources(spec: HubDataset, of_model: Sequence[str], folder: Path) -> list[Source]:
    """The model's folders count where they hold data sets too."""
    if spec.sources:
        return [named.source for named in of_recipe(spec.sources, folder, f"the sources of {spec.repo}")]
    found = [named.source for named in of_recipe(of_model, folder, "model.sources")]
    kept = [one for one in found if not isinstance(one, Folder) or one.holds(spec.repo, "dataset")]
    return kept or [HuggingFace()]


def _hint(wanted: str, known: list[str]) -> str:
    usable = [path for path in known if path.endswith(SUFFIXES)]
    nearest = difflib.get_close_matches(wanted, usable, n=1, cutoff=0.5)
    if nearest:
        return f"did you mean {nearest[0]}?"
    return f"it has {', '.join(usable[:5])}." if usable else "it has no JSON Lines or Parquet file at all."
