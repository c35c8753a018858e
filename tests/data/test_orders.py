"""The demo's data set: written by its generator, and what it promises."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tunesmith.data.rows import read_rows
from tunesmith.specs.load import CHECKOUT

ORDERS = CHECKOUT / "configs" / "orders"
WORDS = dict(enumerate(["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], 2))
IRREGULAR = {"knife": "knives", "scarf": "scarves", "shelf": "shelves", "brush": "brushes"}


class Order(NamedTuple):
    prompt: str
    item: str
    quantity: int
    colour: str
    city: str

    @property
    def thing(self) -> tuple[str, str, str]:
        return self.item, self.colour, self.city

    @property
    def phrasing(self) -> str:
        """The prompt with what was ordered taken out of it."""
        items = IRREGULAR.get(self.item, f"{self.item}s")
        phrasing = self.prompt
        for said in (items, self.colour, self.city, str(self.quantity), WORDS.get(self.quantity, "")):
            phrasing = re.sub(rf"\b{said}\b", "_", phrasing, flags=re.IGNORECASE) if said else phrasing
        return phrasing


def read(name: str) -> list[Order]:
    rows = list(read_rows(ORDERS / name))
    assert all([message["role"] for message in row] == ["user", "assistant"] for row in rows)
    return [Order(row[0]["content"], **json.loads(row[1]["content"])) for row in rows]


@pytest.fixture(scope="module")
def train() -> list[Order]:
    return read("train.jsonl")


@pytest.fixture(scope="module")
def heldout() -> list[Order]:
    return read("heldout.jsonl")


def test_the_generator_writes_the_committed_files_byte_for_byte(tmp_path: Path) -> None:
    script = tmp_path / "generate.py"
    script.write_bytes((ORDERS / "generate.py").read_bytes())
    subprocess.run([sys.executable, "-I", str(script)], check=True)
    for name in ("train.jsonl", "heldout.jsonl"):
        assert (tmp_path / name).read_bytes() == (ORDERS / name).read_bytes()


def test_there_are_rows_enough_and_none_twice(train: list[Order], heldout: list[Order]) -> None:
    assert len(train) >= 640
    assert len(heldout) >= 160
    assert len({order.prompt for order in [*train, *heldout]}) == len(train) + len(heldout)


def test_nothing_held_out_was_ordered_in_training(train: list[Order], heldout: list[Order]) -> None:
    assert not {order.thing for order in train} & {order.thing for order in heldout}
    assert len({order.thing for order in heldout}) == len(heldout)


def test_two_held_out_rows_in_five_have_a_new_city_and_a_new_phrasing(train: list[Order], heldout: list[Order]) -> None:
    cities, phrasings = {order.city for order in train}, {order.phrasing for order in train}
    new = [order for order in heldout if order.city not in cities]
    assert len(new) == 0.4 * len(heldout)
    assert all(order.phrasing not in phrasings for order in new)
    assert all(order.phrasing in phrasings for order in heldout if order.city in cities)
    assert sum(order.city not in cities for order in heldout[:50]) == 20


def test_every_answer_can_be_read_off_its_prompt(train: list[Order], heldout: list[Order]) -> None:
    for order in [*train, *heldout]:
        assert order.phrasing.count("_") == 4, order
        assert order.colour in order.prompt and order.city in order.prompt
