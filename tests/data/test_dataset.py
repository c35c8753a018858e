import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.writing import GOOD, conversations, json_lines, parquet, turn, with_messages
from tunesmith.artifacts import Dataset
from tunesmith.data.dataset import EVALUATION, TRAIN, load_rows, snapshot
from tunesmith.errors import DataError
from tunesmith.runner import Outcome
from tunesmith.specs.data import DataSpec
from tunesmith.store import Store


def order(number: int) -> dict[str, object]:
    return with_messages(turn("user", f"Send {number} mugs to Zürich."), turn("assistant", str(number)))


def made(folder: Path, store: Store, train: str = "train.jsonl", evaluation: str = "heldout.jsonl") -> Outcome:
    return snapshot(DataSpec(train=train, evaluation=evaluation), folder, (), store)


def test_a_data_set_is_a_finished_room_with_the_rows_as_messages(tmp_path: Path, store: Store) -> None:
    json_lines(tmp_path / "train.jsonl", *map(order, range(5)))
    json_lines(tmp_path / "heldout.jsonl", {"prompt": "Send 9 mugs.", "completion": "9"})
    outcome = made(tmp_path, store)
    assert isinstance(outcome.artifact, Dataset)
    assert outcome.room == f"dataset-{outcome.artifact.fingerprint}"
    assert (outcome.artifact.num_train, outcome.artifact.num_evaluation) == (5, 1)
    assert outcome.artifact.longest_train_chars == len("Send 4 mugs to Zürich.") + 1
    store.verify(outcome.artifact)
    out = store.out(outcome.artifact)
    assert load_rows(out / TRAIN) == [order(number)["messages"] for number in range(5)]
    assert load_rows(out / EVALUATION) == [[turn("user", "Send 9 mugs."), turn("assistant", "9")]]
    assert sorted(path.name for path in out.iterdir()) == [EVALUATION, TRAIN]


def test_the_same_rows_are_found_done(tmp_path: Path, store: Store) -> None:
    json_lines(tmp_path / "train.jsonl", order(1))
    json_lines(tmp_path / "heldout.jsonl", order(2))
    first = made(tmp_path, store)
    manifest = store.room(first.room) / "manifest.json"
    before = manifest.read_bytes()
    again = made(tmp_path, store)
    assert (first.cached, again.cached) == (False, True)
    assert again.artifact == first.artifact
    assert manifest.read_bytes() == before


def test_a_room_that_lost_a_file_is_made_again(tmp_path: Path, store: Store) -> None:
    json_lines(tmp_path / "train.jsonl", order(1))
    json_lines(tmp_path / "heldout.jsonl", order(2))
    first = made(tmp_path, store)
    (store.out(first.artifact) / TRAIN).unlink()
    again = made(tmp_path, store)
    assert not again.cached
    store.verify(again.artifact)


def test_held_out_questions_that_are_in_training_are_counted(tmp_path: Path, store: Store) -> None:
    json_lines(tmp_path / "train.jsonl", order(1), order(2), order(2), order(3))
    leaked = with_messages(turn("user", " Send 2 mugs to Zürich. "), turn("assistant", "another answer"))
    json_lines(tmp_path / "heldout.jsonl", leaked, order(3), order(4))
    manifest = store.manifest(made(tmp_path, store).room)
    assert manifest
    assert manifest.metrics == {"num_leaked": 2}


@pytest.mark.parametrize("bad", ["train.jsonl", "heldout.jsonl"])
def test_a_bad_row_in_either_file_leaves_nothing_behind(tmp_path: Path, store: Store, bad: str) -> None:
    for name in ("train.jsonl", "heldout.jsonl"):
        json_lines(tmp_path / name, order(1), "{" if name == bad else order(2))
    with pytest.raises(DataError, match=rf"^{bad}, line 2: broken JSON"):
        made(tmp_path, store)
    assert list(store.root.iterdir()) == []


def test_a_missing_file_is_called_what_the_recipe_calls_it(tmp_path: Path, store: Store) -> None:
    json_lines(tmp_path / "train.jsonl", order(1))
    with pytest.raises(DataError) as raised:
        made(tmp_path, store, evaluation="data/none.jsonl")
    looked = tmp_path / "data" / "none.jsonl"
    assert raised.value.message.startswith(f"data/none.jsonl does not exist (looked for {looked}): correct the path")


def test_train_and_held_out_rows_are_not_interchangeable(tmp_path: Path, store: Store) -> None:
    json_lines(tmp_path / "a.jsonl", order(1))
    json_lines(tmp_path / "b.jsonl", order(2))
    one = made(tmp_path, store, "a.jsonl", "b.jsonl").artifact
    other = made(tmp_path, store, "b.jsonl", "a.jsonl").artifact
    assert one.fingerprint != other.fingerprint


@settings(max_examples=30, deadline=None)
@given(st.lists(conversations(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_fingerprint_is_of_the_content_alone(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[dict[str, str]]], rng: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("data")
    store = Store(folder / "store").open()
    json_lines(folder / "heldout.jsonl", GOOD)
    json_lines(folder / "train.jsonl", *({"messages": row} for row in rows))
    first = made(folder, store)
    assert load_rows(store.out(first.artifact) / TRAIN) == rows
    json_lines(folder / "other.ndjson", *(_rewritten(row, rng) for row in rows))
    parquet(folder / "table.parquet", ({"messages": row} for row in rows))
    for name in ("other.ndjson", "table.parquet"):
        again = made(folder, store, train=name)
        assert (again.artifact, again.cached) == (first.artifact, True)
    rows[rng.randrange(len(rows))][-1]["content"] += "!"
    json_lines(folder / "train.jsonl", *({"messages": row} for row in rows))
    assert made(folder, store).artifact.fingerprint != first.artifact.fingerprint
    shutil.rmtree(folder)


def _rewritten(row: list[dict[str, str]], rng: random.Random) -> str:
    """The same row with other white space, key order, escapes, and a key that is not learnt."""
    turns: list[dict[str, Any]] = [dict(rng.sample(list(message.items()), 2)) for message in row]
    value = dict(rng.sample([("id", rng.random()), ("messages", turns)], 2))
    separators = rng.choice([(",", ":"), (" , ", " :  ")])
    return "  " + json.dumps(value, separators=separators, ensure_ascii=rng.random() < 0.5)
