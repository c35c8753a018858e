"""Data files turned into a data set in the store: every row checked, written as chat messages, named by its content."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.artifacts import Dataset
from tunesmith.conclude import conclude
from tunesmith.data.rows import Format, Row, read_rows
from tunesmith.errors import DataError
from tunesmith.foreign import translate
from tunesmith.runner import Outcome
from tunesmith.specs.data import DataSpec, HubDataset
from tunesmith.specs.spec import fingerprint
from tunesmith.store import OUT, Store

TRAIN, EVALUATION = "train.jsonl", "evaluation.jsonl"
"""The files of a data set's room."""


@dataclass(frozen=True)
class _Source:
    """One data file of the recipe, found."""

    path: Path
    name: str
    """What the user calls it, for errors."""
    form: Format

    def lines(self) -> Iterator[tuple[Row, bytes]]:
        """Each row, and its one line in the store: no white space or key order of the file is left in it."""
        for row in read_rows(self.path, self.form, self.name):
            yield row, _line(row)


@dataclass
class _Count:
    """What one pass over a file adds up to."""

    rows: int = 0
    longest_chars: int = 0
    sha256: str = ""
    asked: Counter[bytes] = field(default_factory=Counter)
    """Rows by digest of what their user says."""


def snapshot(spec: DataSpec, folder: Path, sources: Sequence[str], store: Store) -> Outcome:
    """The recipe's rows as a Dataset in the store, in the room `dataset-<fingerprint>`; relative paths are in `folder`.

    `sources` are the model's, for a hub data set that names none. The fingerprint covers the rows alone: neither a
    path, nor the kind of file, nor the form of a row. The manifest's metrics count held-out rows whose question is in
    training too (`num_leaked`). Raises DataError for the first bad row, DiskFull, StoreNotWritable, and for a hub data
    set what the hub raises.
    """
    began = time.monotonic()
    train, evaluation = (_find(source, spec.format, folder, sources) for source in (spec.train, spec.evaluation))
    heldout = _count(evaluation, keep=None)
    trained = _count(train, keep=heldout.asked)
    dataset = _dataset(trained, heldout)
    room_name = f"dataset-{dataset.fingerprint}"
    if manifest := store.manifest(room_name):
        return Outcome(manifest.artifact, room_name, manifest.wall_seconds, cached=True)
    out = store.open().room(room_name) / OUT
    try:
        _copy(train, trained.sha256, out / TRAIN)
        _copy(evaluation, heldout.sha256, out / EVALUATION)
        seconds = time.monotonic() - began
        metrics = {"num_leaked": sum(heldout.asked[question] for question in trained.asked)}
        conclude(store, room_name, dataset, environment="main", seconds=seconds, metrics=metrics)
    except OSError as error:
        raise translate(error) or error from error
    return Outcome(dataset, room_name, seconds, cached=False)


def load_rows(path: Path) -> list[Row]:
    """The rows of a data set's own file (`store.out(dataset) / TRAIN` or `EVALUATION`), in order; checked when made."""
    with path.open(encoding="utf-8") as file:
        rows: list[Row] = [json.loads(line)["messages"] for line in file]
    return rows


def _find(source: str | HubDataset, form: Format, folder: Path, sources: Sequence[str]) -> _Source:
    if isinstance(source, str):
        return _Source(folder / Path(source).expanduser(), source, form)
    from tunesmith.hub.datasets import fetch_dataset_file  # stages read data sets where no hub client is installed

    return _Source(fetch_dataset_file(source, sources, folder), f"{source.repo}/{source.file}", form)


def _count(source: _Source, keep: Counter[bytes] | None) -> _Count:
    """One pass, nothing held but digests of the questions: all of them, or those in `keep`."""
    count = _Count()
    digest = hashlib.sha256()
    for row, line in source.lines():
        count.rows += 1
        count.longest_chars = max(count.longest_chars, sum(len(message["content"]) for message in row))
        digest.update(line)
        question = _question(row)
        if keep is None or question in keep:
            count.asked[question] += 1
    count.sha256 = digest.hexdigest()
    return count


def _dataset(trained: _Count, heldout: _Count) -> Dataset:
    return Dataset(
        fingerprint=fingerprint("dataset", trained.sha256, heldout.sha256),
        num_train=trained.rows,
        num_evaluation=heldout.rows,
        longest_train_chars=trained.longest_chars,
    )


def _copy(source: _Source, sha256: str, path: Path) -> None:
    """Writes the rows beside `path` and renames; raises DataError when they are no longer those that were counted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    digest = hashlib.sha256()
    with beside.open("wb") as file:
        for _, line in source.lines():
            file.write(line)
            digest.update(line)
    if digest.hexdigest() != sha256:
        beside.unlink()
        raise DataError(f"{source.name} changed while it was being read: run the same command when it is complete.")
    beside.replace(path)


def _line(row: Row) -> bytes:
    messages = [{"role": message["role"], "content": message["content"]} for message in row]
    return json.dumps({"messages": messages}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _question(row: Row) -> bytes:
    said = [message["content"].strip() for message in row if message["role"] == "user"]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).digest()
