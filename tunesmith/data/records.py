"""Reading records: each line of a JSON Lines file or row of a Parquet table, with its number, one at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tunesmith.errors import DataError, EnvironmentMissing

JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet",)
COLUMNS = ("messages", "prompt", "completion")
"""The only columns of a Parquet table that are read, where it has any of them."""
_PARQUET_BATCH_ROWS = 256


class Record(NamedTuple):
    number: int
    """Line in the file, or row of a Parquet table, from 1."""
    value: object
    fault: str | None
    """Why there is no value, None where there is one."""


def unit_of(path: Path) -> str:
    """What a record is counted as in that kind of file: `line` or `row`."""
    return "row" if path.suffix.lower() in PARQUET else "line"


def read_records(path: Path, called: str) -> Iterator[Record]:
    """Every record of a file; blank lines are skipped, but counted.

    Raises DataError for a file that is missing, of an unknown kind or unreadable, calling it `called`; a single bad
    line is a record with a fault.
    """
    if not path.is_file():
        reason = "is a folder, not a file" if path.is_dir() else "does not exist"
        looked = "" if called == str(path) else f" (looked for {path})"
        raise DataError(f"{called} {reason}{looked}: correct the path under data; it is relative to the recipe.")
    suffix = path.suffix.lower()
    if suffix in PARQUET:
        return _parquet(path, called)
    if suffix in JSON_LINES:
        return _json_lines(path, called)
    known = ", ".join(JSON_LINES + PARQUET)
    raise DataError(f"{called} is of an unknown kind ({suffix or 'no suffix'}): use JSON Lines or Parquet ({known}).")


def _json_lines(path: Path, called: str) -> Iterator[Record]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _parsed(number, line)
    except OSError as error:
        raise DataError(f"{called} cannot be read ({error.strerror}): fix its permissions.") from error


def _parsed(number: int, line: bytes) -> Record:
    encoding = "utf-8-sig" if number == 1 else "utf-8"
    try:
        return Record(number, json.loads(line.rstrip(b"\r\n").decode(encoding)), None)
    except UnicodeDecodeError:
        return Record(number, None, "it is not UTF-8 text: save the file as UTF-8")
    except json.JSONDecodeError as error:
        fault = f"broken JSON ({error.msg} at column {error.colno}): write one whole JSON object on each line"
        return Record(number, None, fault)
    except (ValueError, RecursionError) as error:
        return Record(number, None, f"JSON that cannot be read ({error}): write one plain JSON object on each line")


def _parquet(path: Path, called: str) -> Iterator[Record]:
    try:
        import pyarrow as arrow  # an optional library: JSON Lines must be readable without it
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise EnvironmentMissing("Parquet needs pyarrow, which is not installed here: run `make env`.") from error
    try:
        with parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            batches = table.iter_batches(_PARQUET_BATCH_ROWS, columns=[n for n in names if n in COLUMNS] or None)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield Record(number, dict.fromkeys(names) | row, None)
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(". ")
        raise DataError(f"{called} cannot be read as Parquet ({reason}): write the file again.") from error
