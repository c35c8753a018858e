"""One hub, asked through huggingface_hub: listings pinned to a commit, single small files, and its errors as ours."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
    XetDownloadError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import DatasetInfo, ModelInfo, RepoSibling

from tunesmith.artifacts import FileEntry
from tunesmith.errors import GatedRepo, HubUnavailable, ModelError, RepoNotFound, TunesmithError
from tunesmith.hub.between import barred, unreadable
from tunesmith.hub.names import MOST_BYTES, check_commit, check_path, check_sha256, fault_of_path
from tunesmith.hub.transfer.source import Listed
from tunesmith.hub.transfer.verify import git_id

Kind = Literal["model", "dataset"]
_TIMEOUT_SECONDS = 20.0
"""A listing that brings nothing for so long has stalled."""
PUBLIC_HUB = "https://huggingface.co"


class Hub:
    """A hub's address, and what may be asked of it."""

    def __init__(self, address: str | None = None, cache: Path | None = None) -> None:
        """`cache` is asked instead while HF_HUB_OFFLINE is set; HF_HUB_CACHE unless it is given."""
        self.address = (address or _default_hub()).rstrip("/")
        """Of the recipe, else HF_ENDPOINT, else the public hub."""
        self.cache = cache or Path(constants.HF_HUB_CACHE)
        if not self.address.startswith(("http://", "https://")):
            raise ModelError(f"The hub's address {self.address} is no URL: write it as https://host in model.hub.")

    @property
    def token(self) -> Literal[False] | None:
        """None lets huggingface_hub send HF_TOKEN; False holds it back.

        A recipe may name any hub; the token goes only to the one its owner chose: HF_ENDPOINT, or the public one.
        """
        return None if self.address in (PUBLIC_HUB, _default_hub().rstrip("/")) else False

    @property
    def offline(self) -> bool:
        """Whether HF_HUB_OFFLINE forbids asking."""
        return constants.is_offline_mode()

    def list(self, repo: str, revision: str, kind: Kind = "model") -> Listed:
        """The repo's files at the commit `revision` stands for; with HF_HUB_OFFLINE, as far as the cache has them.

        Raises RepoNotFound, GatedRepo, HubUnavailable, or ModelError when what the hub says cannot be used.
        """
        if fault_of_path(revision):
            raise RepoNotFound(f"{revision!a} is no revision: name a branch, a tag or a commit, such as main.")
        if self.offline:
            return self._list_cached(repo, revision, kind)
        with self.explained(repo, revision, kind):
            return self._pinned(self._ask(repo, revision, kind))

    def not_cached(self, repo: str, revision: str) -> ModelError:
        """What to say when an offline run needs more than the cache has."""
        return ModelError(
            f"HF_HUB_OFFLINE is set and the cache {self.cache} does not hold all of {repo} at {revision}: "
            "unset it, or download the repo first."
        )

    @contextmanager
    def explained(self, repo: str, revision: str, kind: Kind = "model") -> Iterator[None]:
        """Turns what huggingface_hub raises inside into one sentence of ours."""
        try:
            yield
        except (HfHubHTTPError, httpx2.TransportError, httpx2.InvalidURL) as error:
            raise self._refusal(error, repo, revision, kind) from error
        except HFValidationError as error:
            raise RepoNotFound(f"{repo!a} is no {kind} repo's name: write it as owner/name.") from error
        except (OfflineModeIsEnabled, RevisionResolutionError) as error:
            raise self.not_cached(repo, revision) from error
        except LocalEntryNotFoundError as error:
            cause = error.__cause__
            raise self._refusal(cause if isinstance(cause, Exception) else error, repo, revision, kind) from error
        except (XetDownloadError, OSError) as error:
            # huggingface_hub's own OSErrors (a file shorter than announced) carry no errno; the system's do.
            if isinstance(error, OSError) and error.errno is not None:
                raise (unreadable() or error) from error
            raise self._unavailable(error) from error

    def _ask(self, repo: str, revision: str, kind: Kind) -> ModelInfo | DatasetInfo:
        api = HfApi(endpoint=self.address, token=self.token)
        try:
            if kind == "dataset":
                return api.dataset_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_SECONDS)
            return api.model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_SECONDS)
        except HFValidationError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self.address} does not answer like a Hugging Face hub: check model.hub and HF_ENDPOINT."
            ) from error

    def _pinned(self, info: ModelInfo | DatasetInfo) -> Listed:
        commit = check_commit(info.sha, self.address)
        return Listed(commit, tuple(self._entry(one) for one in info.siblings or ()))

    def _entry(self, sibling: RepoSibling) -> FileEntry:
        path = check_path(sibling.rfilename, self.address)
        if not isinstance(sibling.size, int) or not 0 <= sibling.size <= MOST_BYTES:
            raise ModelError(f"{self.address} lists no size for {path}: use a hub that does, in model.hub.")
        digest = check_sha256(sibling.lfs.sha256 if sibling.lfs else None, path, self.address)
        # What git holds of a file in LFS is a pointer, whose id says nothing about the content.
        return FileEntry(
            path=path, size=sibling.size, sha256=digest, git_id=None if sibling.lfs else git_id(sibling.blob_id)
        )

    def _list_cached(self, repo: str, revision: str, kind: Kind) -> Listed:
        with self.explained(repo, revision, kind):
            pinned = HfApi().resolve_revision(
                repo, repo_type=kind, revision=revision, cache_dir=self.cache, local_files_only=True
            )
        folder = repo_cache(repo, kind, self.cache) / "snapshots" / check_commit(pinned.resolved, "The local cache")
        files = tuple(_cached_entry(folder, path) for path in sorted(folder.rglob("*")) if path.is_file())
        if not files:
            raise self.not_cached(repo, revision)
        return Listed(folder.name, files)

    def _refusal(self, error: Exception, repo: str, revision: str, kind: Kind) -> TunesmithError:
        if isinstance(error, OfflineModeIsEnabled):
            return self.not_cached(repo, revision)
        if isinstance(error, GatedRepoError):
            return self.refusal(403, "GatedRepo", repo, revision, kind)
        if isinstance(error, RepositoryNotFoundError):
            return self.refusal(404, "RepoNotFound", repo, revision, kind)
        if isinstance(error, RevisionNotFoundError):
            return self.refusal(404, "RevisionNotFound", repo, revision, kind)
        if isinstance(error, EntryNotFoundError | FileMetadataError):
            return self.refusal(404, "EntryNotFound", repo, revision, kind)
        return barred(error, self.address) or self._unavailable(error)

    def refusal(self, status: int, code: str | None, repo: str, revision: str, kind: Kind = "model") -> TunesmithError:
        """The sentence for an answer with this status and, where the hub says it, this `X-Error-Code`."""
        if code == "GatedRepo":
            return GatedRepo(f"{repo} is gated on {self.address}: {self._way_in(repo, kind)}.")
        if code == "RepoNotFound" or (code is None and status in (401, 403)):
            return RepoNotFound(
                f"There is no {kind} repo {repo} on {self.address}: check the spelling, "
                "or set HF_TOKEN when it is a private one."
            )
        if code == "RevisionNotFound":
            return RepoNotFound(
                f"{repo} on {self.address} has no revision {revision}: check the spelling, or use main."
            )
        if status in (404, 410):
            return ModelError(
                f"{self.address} lists files of {repo} that it does not serve: use another hub in model.hub."
            )
        return ModelError(f"{self.address} refuses (status {status}): check model.hub, HF_ENDPOINT and HF_TOKEN.")

    def _unavailable(self, error: Exception) -> TunesmithError:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        what = f"status {status}" if status else type(error).__name__
        if status and status < 500 and status not in (408, 429):
            return ModelError(f"{self.address} refuses ({what}): check model.hub, HF_ENDPOINT and HF_TOKEN.")
        unavailable = HubUnavailable(
            f"The hub {self.address} did not answer or broke off ({what}): "
            "check the network and HF_ENDPOINT, then run the same command again."
        )
        if isinstance(error, HfHubHTTPError):
            unavailable.retry_after = error.response.headers.get("retry-after")
        return unavailable

    def _way_in(self, repo: str, kind: Kind) -> str:
        page = f"{self.address}/{'datasets/' if kind == 'dataset' else ''}{repo}"
        if self.token is False:
            return (
                f"accept its terms at {page}, then set HF_TOKEN, and HF_ENDPOINT={self.address}, which the token is for"
            )
        if os.environ.get("HF_TOKEN"):
            return f"the token in HF_TOKEN has no access; accept the terms at {page} with its account"
        return f"accept its terms at {page} and set HF_TOKEN to a token of that account"


def repo_cache(repo: str, kind: Kind = "model", cache: Path | None = None) -> Path:
    """The repo's folder in the Hugging Face cache, which is HF_HUB_CACHE unless it is given."""
    return (cache or Path(constants.HF_HUB_CACHE)) / repo_folder_name(repo_id=repo, repo_type=kind)


def _default_hub() -> str:
    return os.environ.get("HF_ENDPOINT") or PUBLIC_HUB


def _cached_entry(folder: Path, path: Path) -> FileEntry:
    # In the cache a large file's blob is named by its sha256, a small one's by its git id.
    blob = path.resolve().name
    digest = blob if len(blob) == 64 else None
    name = path.relative_to(folder).as_posix()
    return FileEntry(path=name, size=path.stat().st_size, sha256=digest, git_id=git_id(blob))
