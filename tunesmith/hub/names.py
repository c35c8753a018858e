"""What a hub says is not to be trusted: names and commits are checked before a path is made of them."""

import re

from tunesmith.errors import ModelError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST_NAME, _LONGEST_PATH = 255, 2048
"""Bytes, as the usual file systems have it, with room for the cache's own folders."""
MOST_BYTES = 1 << 62
"""No file is larger; a hub that says so is not believed."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fault_of_path(path: str) -> str | None:
    """None, or why `path` must not be joined to a folder."""
    parts = path.split("/")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "is absolute"
    if "\\" in path or any(ord(letter) < 32 or ord(letter) == 127 for letter in path):
        return "holds a backslash or a control character"
    if any(part in ("", ".", "..") for part in parts):
        return "has an empty part, . or .. in it"
    if any("\ud800" <= letter <= "\udfff" for letter in path):
        return "holds half a character"
    if len(path.encode()) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        return "is longer than a disk takes"
    return None


def check_path(path: str, hub: str) -> str:
    """`path`, when it stays inside the folder it is joined to. Raises ModelError."""
    if reason := fault_of_path(path):
        raise ModelError(
            f"{hub} lists a file whose name {reason} ({path!a}): do not use that hub, set another model.hub."
        )
    return path


def check_commit(commit: str | None, hub: str) -> str:
    """`commit`, when it is 40 hex digits. Raises ModelError."""
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise ModelError(
            f"{hub} gave {commit!a} for a commit, not 40 hex digits: do not use it, set another model.hub."
        )
    return commit


def check_sha256(digest: str | None, path: str, hub: str) -> str | None:
    """`digest`, when it is None or 64 hex digits. Raises ModelError."""
    if digest is not None and not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
        raise ModelError(f"{hub} lists {digest!a} as the sha256 of {path}: do not use that hub, set another model.hub.")
    return digest
