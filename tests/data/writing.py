"""Rows for tests, and the files that hold them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from hypothesis import strategies as st

from tunesmith.data.rows import ROLES

GOOD = {"messages": [{"role": "user", "content": "Two lamps."}, {"role": "assistant", "content": "Done."}]}


def json_lines(path: Path, *rows: object) -> Path:
    """Each row on its line; text and bytes go in as they are."""
    path.write_bytes(b"".join(_encoded(row) + b"\n" for row in rows))
    return path


def parquet(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def with_messages(*messages: object) -> dict[str, object]:
    return {"messages": list(messages)}


def turn(role: object, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


contents = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(str.strip)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, str]]:
    """Any valid row's messages."""
    system = [turn("system", draw(contents))] if draw(st.booleans()) else []
    middle = draw(st.lists(st.sampled_from(ROLES[1:]), max_size=3))
    turns = [turn(role, draw(contents)) for role in ["user", *middle, "assistant"]]
    return [*system, *turns]  # type: ignore[list-item]


def _encoded(row: object) -> bytes:
    if isinstance(row, bytes):
        return row
    return (row if isinstance(row, str) else json.dumps(row)).encode()
