"""A Hugging Face hub, or a mirror of one, as a source."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from huggingface_hub.utils._headers import build_hf_headers

from tunesmith.artifacts import FileEntry
from tunesmith.errors import TunesmithError
from tunesmith.hub.client import Hub
from tunesmith.hub.transfer.source import Kind, Listed, Remote


class HuggingFace:
    """Files of one hub; with HF_HUB_OFFLINE, those that are in the cache."""

    def __init__(self, address: str | None = None, cache: Path | None = None) -> None:
        """`address` None is HF_ENDPOINT, else the public hub; `cache` None is HF_HUB_CACHE.

        Raises ModelError when the address is no URL.
        """
        self.hub = Hub(address, cache)

    @property
    def name(self) -> str:
        return self.hub.address

    def listing(self, repo: str, revision: str, kind: Kind = "model") -> Listed:
        return self.hub.list(repo, revision, kind)

    def locate(self, repo: str, commit: str, entry: FileEntry, kind: Kind = "model") -> Remote:
        if self.hub.offline:
            raise self.hub.not_cached(repo, commit)
        folder = "datasets/" if kind == "dataset" else ""
        url = f"{self.hub.address}/{folder}{repo}/resolve/{commit}/{quote(entry.path)}"
        return Remote(url, self._headers, xet=entry.sha256 is not None)

    def refusal(self, status: int, code: str | None, repo: str, commit: str, kind: Kind) -> TunesmithError:
        """The sentence for a file that the hub refused."""
        return self.hub.refusal(status, code, repo, commit, kind)

    @cached_property
    def _headers(self) -> Mapping[str, str]:
        return build_hf_headers(token=self.hub.token, library_name="tunesmith")
