"""One round: what the repo lacks of each part, in one commit per part, with the card as it is then."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tunesmith.backup.parts import Part
from tunesmith.backup.remote import Remote, is_held, item_of

CARD = "README.md"


class Pushed(NamedTuple):
    """What became of a part."""

    part: str
    origin: str
    files: int
    """Sent."""
    bytes: int
    there: int
    """Files the repo had already."""

    @property
    def sentence(self) -> str:
        size = f"{self.bytes / 1e6:,.1f} MB"
        return f"{self.part} ({self.origin}): {self.files} files, {size} sent; {self.there} files were there"


def push(remote: Remote, parts: Sequence[Part], card: str) -> list[Pushed]:
    """Brings the repo up to the parts and the card; what is there by digest is not sent. Raises what `Remote` does."""
    remote.prepare()
    held = dict(remote.held())
    cover = Part(CARD, (item_of(CARD, card.encode()),), "card")
    return [_bring(remote, part, held) for part in (*parts, cover)]


def _bring(remote: Remote, part: Part, held: dict[str, str]) -> Pushed:
    add = [item for item in part.items if not is_held(item, held)]
    remove = _left_over(part, held)
    sent = remote.push(add, remove, f"{part.name}: {part.origin}") if add or remove else 0
    held.update({item.path: item.sha256 for item in add})
    return Pushed(part.name, part.origin, len(add), sent, len(part.items) - len(add))


def _left_over(part: Part, held: Mapping[str, str]) -> list[str]:
    """Files of what stood in the part's folder before."""
    wanted = {item.path for item in part.items}
    return sorted(path for path in held if path.startswith(f"{part.name}/") and path not in wanted)
