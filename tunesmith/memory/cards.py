"""A table of GPUs: which one would do, and what one has that is spoken of by name."""

import difflib
import re

from tunesmith.artifacts import Device
from tunesmith.errors import RecipeError
from tunesmith.memory.constants import GIB

_TABLE = (
    ("T4", 15), ("V100-16G", 16), ("V100-32G", 32), ("RTX 3060", 12), ("RTX 3090", 24), ("RTX 4080", 16),
    ("RTX 4090", 24), ("RTX 5090", 31), ("RTX A6000", 48), ("RTX 6000 Ada", 47), ("A10", 23), ("L4", 23), ("L40S", 45),
    ("A100-40G", 40), ("A100-80G", 80), ("H100-80G", 80), ("H200", 140), ("B200", 179),
)  # fmt: skip
"""Names and the whole GiB that the driver reports in all."""
_PROPOSED = ("RTX 3060", "RTX 4080", "RTX 4090", "RTX 5090", "RTX 6000 Ada", "A100-80G", "H200", "B200")


def _device(name: str, gib: int) -> Device:
    return Device(name=name, memory_bytes=gib * GIB)


CARDS: tuple[Device, ...] = tuple(_device(name, dict(_TABLE)[name]) for name in _PROPOSED)
"""What a refusal proposes, smallest first."""


def find_card(name: str) -> Device:
    """The card of that name, spelt as people spell it (`a100 80gb`, `RTX4090`); raises RecipeError with the nearest."""
    cards = {_plain(known): _device(known, gib) for known, gib in _TABLE}
    plain = _plain(name)
    if card := cards.get(plain):
        return card
    nearest = difflib.get_close_matches(plain, cards, n=1)
    hint = (
        f"did you mean {cards[nearest[0]].name}?" if nearest else f"known: {', '.join(known for known, _ in _TABLE)}."
    )
    raise RecipeError(f"--gpu {name}: no such card in the table; give --gpu-memory in GiB, or {hint}")


def _plain(name: str) -> str:
    """Lower case, without spaces, dashes, the maker's name and the b of GB."""
    text = re.sub(r"[\s_-]|nvidia|geforce|sxm\d?|pcie|hbm\d\w?", "", name.lower())
    return re.sub(r"gi?b?$", "g", text)
