import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.writing import GOOD, conversations, json_lines, parquet, turn, with_messages
from tunesmith.data.rows import read_rows
from tunesmith.errors import DataError

ASKED, ANSWERED = turn("user", "Two lamps."), turn("assistant", "Done.")


def refusal(path: Path, form: str = "auto") -> str:
    with pytest.raises(DataError) as raised:
        list(read_rows(path, form))  # type: ignore[arg-type]
    return raised.value.message


BAD_ROWS = {
    "broken JSON (Expecting ',' delimiter at column 16)": b'{"messages": [1',
    "it is a list, not an object": [GOOD],
    "it is text, not an object": '"hello"',
    "it is null, not an object": "null",
    "it is not UTF-8 text": b'{"messages": "\xff"}',
    "JSON that cannot be read": "[" * 100_000,
    "it needs messages, or prompt and completion and has id, text": {"id": 1, "text": "x"},
    "it needs messages, or prompt and completion and has messages (null)": {"messages": None},
    "it needs messages, or prompt and completion and has no keys": {},
    "messages is text: make it a list": {"messages": "hello"},
    "messages is an empty list": {"messages": []},
    "message 1 has text instead of an object": with_messages("hello"),
    "message 1 has no role": with_messages({"from": "human", "value": "hello"}),
    'message 2 has the role "bot": use system or user or assistant': with_messages(ASKED, turn("bot", "Done.")),
    'message 1 has the role "Assistant"': with_messages(turn("Assistant", "Done.")),
    'message 1 has the role ["user"]': with_messages(turn(["user"], "x")),
    "message 2 has the role system: only the first message may": with_messages(ASKED, turn("system", "x"), ANSWERED),
    "message 2 has the key tool_calls": with_messages(ASKED, {**ANSWERED, "tool_calls": [1]}),
    "the content of message 2 is null: make it text": with_messages(ASKED, turn("assistant", None)),
    "the content of message 1 is a list: make it text": with_messages(turn("user", [{"text": "x"}]), ANSWERED),
    "the content of message 2 is empty": with_messages(ASKED, turn("assistant", " \n")),
    "the content of message 2 holds half of a surrogate pair": with_messages(ASKED, turn("assistant", "\ud800")),
    "it has no assistant turn: end it with the answer to learn": with_messages(ASKED),
    "it ends with a turn of the role user": with_messages(ASKED, ANSWERED, ASKED),
    "it has no user turn": with_messages(turn("system", "Be kind."), ANSWERED),
    "prompt is a list: make it text": {"prompt": [ASKED], "completion": "Done."},
    "completion is empty": {"prompt": "Two lamps.", "completion": ""},
}


@pytest.mark.parametrize("said", BAD_ROWS)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, said: str) -> None:
    path = json_lines(tmp_path / "orders.jsonl", GOOD, "", BAD_ROWS[said], GOOD)
    message = refusal(path)
    assert message.startswith(f"{path}, line 3: {said}")
    assert message.endswith(".")
    assert "\n" not in message


def test_the_first_bad_row_is_told_and_the_others_counted(tmp_path: Path) -> None:
    bad = with_messages(ASKED)
    path = json_lines(tmp_path / "orders.jsonl", GOOD, bad, GOOD, "{", bad)
    assert refusal(path).startswith(f"{path}, line 2: it has no assistant turn")
    assert refusal(path).endswith(" (2 more rows are bad).")
    assert refusal(json_lines(path, bad, bad)).endswith(" (1 more row is bad).")
    assert "more" not in refusal(json_lines(path, bad, GOOD))


def test_no_row_after_a_bad_one_is_yielded(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "orders.jsonl", GOOD, "{", GOOD)
    rows = read_rows(path)
    assert next(rows) == GOOD["messages"]
    with pytest.raises(DataError):
        next(rows)


def test_a_bad_parquet_row_is_named_by_its_number(tmp_path: Path) -> None:
    rows = [GOOD] * 300 + [with_messages(ASKED)]
    path = parquet(tmp_path / "orders.parquet", rows)
    assert refusal(path).startswith(f"{path}, row 301: it has no assistant turn")


def test_parquet_without_the_columns_is_told_its_columns(tmp_path: Path) -> None:
    path = parquet(tmp_path / "orders.parquet", [{"id": 1, "prompt": "Two lamps."}])
    assert refusal(path).startswith(f"{path}, row 1: it needs messages, or prompt and completion and has id, prompt")


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing of the kind", b"PAR1\x00\x00\x00\x00PAR1"])
def test_a_damaged_parquet_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "orders.parquet"
    path.write_bytes(content)
    assert refusal(path).startswith(f"{path} cannot be read as Parquet (")


def test_a_missing_file_a_folder_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.jsonl").startswith(f"{tmp_path / 'none.jsonl'} does not exist: correct the path")
    assert refusal(tmp_path).startswith(f"{tmp_path} is a folder, not a file")
    table = tmp_path / "orders.csv"
    table.write_text("a,b")
    wanted = "is of an unknown kind (.csv): use JSON Lines or Parquet (.jsonl, .ndjson, .json, .parquet)."
    assert refusal(table) == f"{table} {wanted}"


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    blank = json_lines(tmp_path / "blank.jsonl", "", "  ")
    assert refusal(blank).startswith(f"{blank} holds no rows: put one example on each line")
    table = parquet(tmp_path / "none.parquet", [GOOD])
    import pyarrow.parquet as files

    files.write_table(files.read_table(table).slice(0, 0), table)
    assert refusal(table).startswith(f"{table} holds no rows: put one example on each row")


def test_errors_call_the_file_what_they_are_told_to(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a1b2.jsonl", "{")
    with pytest.raises(DataError, match=r"^owner/orders/train\.jsonl, line 1: broken JSON"):
        list(read_rows(path, name="owner/orders/train.jsonl"))


def test_the_format_says_which_keys_count(tmp_path: Path) -> None:
    both = {**GOOD, "prompt": "Three mugs.", "completion": "Sent."}
    path = json_lines(tmp_path / "orders.jsonl", both)
    pair = [[turn("user", "Three mugs."), turn("assistant", "Sent.")]]
    assert list(read_rows(path)) == [GOOD["messages"]]
    assert list(read_rows(path, "messages")) == [GOOD["messages"]]
    assert list(read_rows(path, "prompt_completion")) == pair
    path = json_lines(tmp_path / "orders.jsonl", {"prompt": "Three mugs.", "completion": "Sent."})
    assert list(read_rows(path)) == pair
    assert "it needs messages and has prompt, completion: rename its keys or set" in refusal(path, "messages")
    path = json_lines(tmp_path / "orders.jsonl", GOOD)
    assert "it needs prompt and completion and has messages" in refusal(path, "prompt_completion")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "orders.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n" + json.dumps(GOOD).encode())
    assert list(read_rows(path)) == [GOOD["messages"]] * 2


@settings(max_examples=40, deadline=None)
@given(st.lists(conversations(), min_size=1, max_size=5))
def test_valid_rows_come_back_as_they_were_from_either_kind_of_file(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[dict[str, str]]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    values = [{"id": number, "messages": row} for number, row in enumerate(rows)]
    assert list(read_rows(json_lines(folder / "rows.jsonl", *values))) == rows
    assert list(read_rows(parquet(folder / "rows.parquet", values))) == rows
