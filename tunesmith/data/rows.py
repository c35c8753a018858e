"""Reading rows: JSON Lines or Parquet in, chat messages out, and for every bad row a sentence that names its place."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeGuard

from tunesmith.data.records import COLUMNS, read_records, unit_of
from tunesmith.errors import DataError

Format = Literal["auto", "messages", "prompt_completion"]
ROLES = ("system", "user", "assistant")


class Message(TypedDict):
    """One turn, as chat templates take it."""

    role: str
    """One of ROLES."""
    content: str
    """Never blank."""


Row = list[Message]
"""A conversation that ends with the assistant."""


def read_rows(path: Path, form: Format = "auto", name: str | None = None) -> Iterator[Row]:
    """The rows of a file, one at a time; `name` is what errors call the file (unset, its path).

    Raises DataError: at once for a file that cannot be read, and at the end for bad rows, naming the first one and
    how many follow it. No row after the first bad one is yielded.
    """
    called = name or str(path)
    unit = unit_of(path)
    num_rows = num_bad = 0
    first = ""
    for record in read_records(path, called):
        num_rows += 1
        if fault := record.fault or objection(record.value, form):
            first = first or f"{called}, {unit} {record.number}: {fault}"
            num_bad += 1
        elif not num_bad:
            yield _normalized(record.value, form)
    if num_bad:
        raise DataError(first + _more(num_bad - 1))
    if not num_rows:
        raise DataError(f"{called} holds no rows: put one example on each {unit}, or name another file under data.")


def objection(value: object, form: Format = "auto") -> str | None:
    """None, or what is wrong with one parsed row and what to do about it."""
    if not isinstance(value, dict):
        return f"it is {_kind(value)}, not an object: write each row as one JSON object"
    if _is_chat(value, form):
        return _objection_to_messages(value["messages"])
    if form != "messages" and _has(value, "prompt", "completion"):
        return _objection_to_text(value["prompt"], "prompt") or _objection_to_text(value["completion"], "completion")
    wanted = {"auto": "messages, or prompt and completion", "prompt_completion": "prompt and completion"}
    return f"it needs {wanted.get(form, 'messages')} and has {_found(value)}: rename its keys or set data.format"


def _is_chat(value: dict[str, object], form: Format) -> bool:
    return form != "prompt_completion" and _has(value, "messages")


def _has(value: dict[str, object], *keys: str) -> bool:
    # A null counts as absent: Parquet tables that were joined carry one for every column a row lacks.
    return all(value.get(key) is not None for key in keys)


def _objection_to_messages(messages: object) -> str | None:
    if not isinstance(messages, list) or not messages:
        return f"messages is {_kind(messages)}: make it a list of objects with role and content"
    for number, message in enumerate(messages, 1):
        if fault := _objection_to_message(message, number):
            return fault
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        return "it has no assistant turn: end it with the answer to learn, under the role assistant"
    if roles[-1] != "assistant":
        return f"it ends with a turn of the role {roles[-1]}: end it with the answer to learn, under the role assistant"
    if "user" not in roles:
        return "it has no user turn: put what is asked before the answer, under the role user"
    return None


def _objection_to_message(message: object, number: int) -> str | None:
    if not isinstance(message, dict) or not _has(message, "role"):
        what = "no role" if isinstance(message, dict) else f"{_kind(message)} instead of an object"
        return f"message {number} has {what}: write it as an object with role and content"
    role = message["role"]
    if role not in ROLES:
        return f"message {number} has the role {json.dumps(role, default=str)}: use {' or '.join(ROLES)}"
    if role == "system" and number > 1:
        return f"message {number} has the role system: only the first message may"
    if extra := [key for key in message if key not in Message.__annotations__ and message[key] is not None]:
        return f"message {number} has the key {extra[0]}, which would not be learnt: keep role and content alone"
    return _objection_to_text(message.get("content"), f"the content of message {number}")


def _objection_to_text(text: object, called: str) -> str | None:
    if not isinstance(text, str):
        return f"{called} is {_kind(text)}: make it text"
    if not text.strip():
        return f"{called} is empty: fill it in or remove the row"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{called} holds half of a surrogate pair, which no tokenizer takes: remove it"
    return None


def _normalized(value: object, form: Format) -> Row:
    """The messages of a row that nothing was objected to."""
    assert _is_object(value)
    if _is_chat(value, form):
        return [Message(role=message["role"], content=message["content"]) for message in value["messages"]]
    return [Message(role="user", content=value["prompt"]), Message(role="assistant", content=value["completion"])]


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _kind(value: object) -> str:
    """What a value is, in JSON's words."""
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return f"an empty {names[type(value)].split()[-1]}" if value in ("", [], {}) else names.get(type(value), "a value")


def _found(value: dict[str, object]) -> str:
    keys = [f"{key} (null)" if key in COLUMNS and value[key] is None else str(key) for key in value]
    shown = ", ".join(keys[:8]) + (", …" if len(keys) > 8 else "")
    return shown or "no keys"


def _more(num_bad: int) -> str:
    if not num_bad:
        return "."
    return f" ({num_bad} more {'row is' if num_bad == 1 else 'rows are'} bad)."
