"""A repo on ModelScope, pushed to through its HTTP API: blobs by sha256 first, then one commit that names them."""

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from tunesmith.backup.parts import Item
from tunesmith.backup.remote import content_of
from tunesmith.errors import BackupRefused, CorruptArtifact, HubUnavailable, RepoNotFound, TunesmithError
from tunesmith.hub.transfer.sources.modelscope import PUBLIC, ModelScope
from tunesmith.store import sha256

_BRANCH = "master"
_PRIVATE, _OPEN = 1, 5
"""Its numbers for who may see a repo."""
_INLINE_BYTES = 64 << 10
_INLINE = (".json", ".jinja", ".md", ".txt", ".yaml")
"""Small text goes into the commit itself; all else is a blob."""
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_PIECE = 1 << 20


class ModelScopeRepo:
    """`repo` on the site at MODELSCOPE_ENDPOINT, else on the public one."""

    def __init__(self, repo: str, private: bool = True) -> None:
        self.repo, self.private = repo, private
        self._address = (os.environ.get("MODELSCOPE_ENDPOINT") or PUBLIC).rstrip("/")
        self._token = os.environ.get("MODELSCOPE_API_TOKEN")
        self._known = {"Authorization": f"Bearer {self._token}", "Cookie": f"m_session_id={self._token}"}

    @property
    def name(self) -> str:
        return f"{self.repo} on {self._address}"

    def missing_token(self) -> str | None:
        if self._token:
            return None
        return f"Nothing is backed up to {self.name}: set MODELSCOPE_API_TOKEN to a token that may write."

    def prepare(self) -> None:
        with self._explained():
            with self._client() as client:
                found = client.get(f"{self._address}/api/v1/models/{quote(self.repo)}")
            if found.status_code == httpx.codes.OK:
                return
            owner, name = self.repo.split("/")
            visibility = _PRIVATE if self.private else _OPEN
            self._post("models", {"Path": owner, "Name": name, "Visibility": visibility, "License": "Other"})

    def held(self) -> Mapping[str, str]:
        try:
            listed = ModelScope(self._address).listing(self.repo, _BRANCH)
        except RepoNotFound:
            # A repo without a commit.
            return {}
        return {entry.path: entry.sha256 or "" for entry in listed.files}

    def push(self, add: Sequence[Item], remove: Sequence[str], message: str) -> int:
        """What a cut-off push had brought over is not sent again: the hub says which blobs it lacks."""
        blobs = [item for item in add if not _is_inline(item)]
        with self._explained():
            for item, address in self._lacking(blobs):
                self._send(item, address)
            actions = [_action(item) for item in add] + [_removal(path) for path in remove]
            self._post(f"repos/models/{quote(self.repo)}/commit/{_BRANCH}", _commit(message, actions))
        return sum(item.size for item in add)

    def _lacking(self, blobs: Sequence[Item]) -> Iterator[tuple[Item, str]]:
        if not blobs:
            return
        objects = [{"oid": item.sha256, "size": item.size} for item in blobs]
        place = f"repos/models/{quote(self.repo)}/info/lfs/objects/batch"
        said = self._post(place, {"operation": "upload", "objects": objects})
        by_digest = {item.sha256: item for item in blobs}
        for row in said.get("objects", []):
            address = row.get("actions", {}).get("upload", {}).get("href")
            if address:
                yield by_digest[row["oid"]], address

    def _send(self, item: Item, address: str) -> None:
        if isinstance(item.source, Path) and sha256(item.source) != item.sha256:
            raise CorruptArtifact(f"{item.path} is not what its manifest lists: it was not pushed.")
        headers = {"Content-Length": str(item.size), **(self._known if self._is_ours(address) else {})}
        with httpx.Client(timeout=_TIMEOUT) as client:
            client.put(address, content=_pieces(item), headers=headers).raise_for_status()

    def _is_ours(self, address: str) -> bool:
        """Whether an upload's address is the hub's, or below it: the token goes nowhere else."""
        home = (urlsplit(self._address).hostname or "").removeprefix("www.")
        there, asked = urlsplit(address), urlsplit(self._address)
        if there.hostname == asked.hostname:
            return there.port == asked.port and there.scheme == asked.scheme
        return there.scheme == "https" and (there.hostname or "").endswith(f".{home}")

    def _client(self) -> httpx.Client:
        return httpx.Client(headers=self._known, timeout=_TIMEOUT)

    def _post(self, place: str, body: Mapping[str, Any]) -> dict[str, Any]:
        with self._client() as client:
            answer = client.post(f"{self._address}/api/v1/{place}", json=body)
        answer.raise_for_status()
        said = answer.json()
        if not isinstance(said, dict) or said.get("Success") is False:
            raise ValueError(str(said.get("Message") if isinstance(said, dict) else said))
        data = said.get("Data", said)
        return data if isinstance(data, dict) else said

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._sentence(error) from error

    def _sentence(self, error: Exception) -> TunesmithError:
        status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
        if status in (401, 403):
            return BackupRefused(
                f"{self._address} does not let the token in MODELSCOPE_API_TOKEN write to {self.repo}: "
                "set one that may, or another backup.to."
            )
        if isinstance(error, httpx.TransportError) or (status and (status >= 500 or status in (408, 409, 429))):
            what = f"status {status}" if status else type(error).__name__
            return HubUnavailable(f"{self._address} did not answer or broke off ({what}): it is tried again later.")
        said = " ".join(str(error).split())[:300]
        return BackupRefused(f"{self._address} does not take the backup to {self.repo} ({said}): check backup.to.")


def _is_inline(item: Item) -> bool:
    return (item.path.endswith(_INLINE) and item.size <= _INLINE_BYTES) or item.size == 0


def _commit(message: str, actions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"commit_message": message, "actions": actions}


def _action(item: Item) -> dict[str, Any]:
    row = {"action": "create", "path": item.path, "size": item.size}
    if _is_inline(item):
        content = base64.b64encode(content_of(item)).decode()
        return {**row, "type": "normal", "sha256": "", "content": content, "encoding": "base64"}
    return {**row, "type": "lfs", "sha256": item.sha256, "content": "", "encoding": ""}


def _removal(path: str) -> dict[str, Any]:
    return {"action": "delete", "path": path, "type": "normal", "size": 0, "sha256": "", "content": "", "encoding": ""}


def _pieces(item: Item) -> Iterator[bytes]:
    if isinstance(item.source, bytes):
        yield item.source
        return
    with item.source.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
