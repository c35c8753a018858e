"""A repo that takes backups: what the pusher asks of it, and which one a recipe names."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tunesmith.backup.parts import Item
from tunesmith.hub.shelf import git_blob_id
from tunesmith.specs.backup import TARGET, BackupSpec


class Remote(Protocol):
    """One repo on one hub. Every call raises HubUnavailable when it may pass later, BackupRefused when not."""

    @property
    def name(self) -> str:
        """For people."""

    def missing_token(self) -> str | None:
        """None, or a sentence on why nothing can be pushed."""

    def prepare(self) -> None:
        """Makes the repo where there is none."""

    def held(self) -> Mapping[str, str]:
        """The repo's files: path -> sha256, or git's id of a small file."""

    def push(self, add: Sequence[Item], remove: Sequence[str], message: str) -> int:
        """One commit; returns the bytes it was made of."""


def remote_of(spec: BackupSpec) -> Remote:
    """The repo of `backup.to`."""
    from tunesmith.backup.huggingface import HuggingFaceRepo
    from tunesmith.backup.modelscope import ModelScopeRepo

    match = TARGET.fullmatch(spec.to)
    assert match is not None
    hub, repo = match.groups()
    if hub == "modelscope":
        return ModelScopeRepo(repo, private=spec.private)
    return HuggingFaceRepo(None if hub == "hf" else hub, repo, private=spec.private)


def is_held(item: Item, held: Mapping[str, str]) -> bool:
    """Whether the repo has this very content at this path."""
    digest = held.get(item.path)
    if digest is None or len(digest) == 64:
        return digest == item.sha256
    return digest == git_blob_id(content_of(item))


def content_of(item: Item) -> bytes:
    """The whole file; for small ones."""
    return item.source if isinstance(item.source, bytes) else Path(item.source).read_bytes()


def item_of(path: str, content: bytes) -> Item:
    """A file that is made, not read."""
    return Item(path, content, len(content), hashlib.sha256(content).hexdigest())
