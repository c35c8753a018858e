"""A repo on a Hugging Face hub, pushed to through huggingface_hub: Xet on the public one, LFS elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile

from tunesmith.backup.parts import Item
from tunesmith.errors import BackupRefused, CorruptArtifact, HubUnavailable, TunesmithError
from tunesmith.hub.client import PUBLIC_HUB, Hub

_MISSING = (EntryNotFoundError, RevisionNotFoundError)
"""What a repo without a commit answers."""


class HuggingFaceRepo:
    """`repo` on the hub at `address`: None is HF_ENDPOINT, else the public one."""

    def __init__(self, address: str | None, repo: str, private: bool = True) -> None:
        self.hub, self.repo, self.private = Hub(address), repo, private
        self._token = get_token() if self.hub.token is None else None
        self._api = HfApi(endpoint=self.hub.address, token=self._token or False)

    @property
    def name(self) -> str:
        return f"{self.repo} on {self.hub.address}"

    def missing_token(self) -> str | None:
        if self.hub.token is False:
            return (
                f"Nothing is backed up to {self.name}: set HF_ENDPOINT={self.hub.address}, "
                "so that the token in HF_TOKEN may go there."
            )
        return None if self._token else f"Nothing is backed up to {self.name}: set HF_TOKEN to a token that may write."

    def prepare(self) -> None:
        with self._explained():
            # Asked first: a token may be allowed to write, and not to make repos.
            if not self._api.repo_exists(self.repo):
                self._api.create_repo(self.repo, private=self.private, exist_ok=True)

    def held(self) -> Mapping[str, str]:
        with self._explained():
            try:
                tree = list(self._api.list_repo_tree(self.repo, recursive=True))
            except _MISSING:
                return {}
        files = [entry for entry in tree if isinstance(entry, RepoFile)]
        return {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files}

    def push(self, add: Sequence[Item], remove: Sequence[str], message: str) -> int:
        """File by file first: what a cut-off push had brought over is not sent again by the next one."""
        with self._explained(), _lfs_unless(self.hub.address == PUBLIC_HUB):
            additions = [self._bring(item) for item in add]
            deletions = [CommitOperationDelete(path_in_repo=path, is_folder=False) for path in remove]
            self._api.create_commit(self.repo, [*additions, *deletions], commit_message=message)
        return sum(item.size for item in add)

    def _bring(self, item: Item) -> CommitOperationAdd:
        source = item.source if isinstance(item.source, bytes) else str(item.source)
        operation = CommitOperationAdd(path_in_repo=item.path, path_or_fileobj=source)
        self._api.preupload_lfs_files(self.repo, [operation], free_memory=False)
        if operation.upload_info.sha256.hex() != item.sha256:
            raise CorruptArtifact(f"{item.path} is not what its manifest lists: it was not pushed.")
        return operation

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (HfHubHTTPError, httpx2.TransportError, httpx2.InvalidURL, OfflineModeIsEnabled) as error:
            raise self._sentence(error) from error
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            # "Error while uploading" holds the reason as its cause; a ValueError says what the hub objects to.
            raise self._sentence(error.__cause__ or error) from error

    def _sentence(self, error: BaseException) -> TunesmithError:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in (401, 403):
            return BackupRefused(
                f"{self.hub.address} does not let the token in HF_TOKEN write to {self.repo}: "
                "set one that may, or another backup.to."
            )
        if isinstance(error, OfflineModeIsEnabled):
            return BackupRefused(f"HF_HUB_OFFLINE is set: unset it to back up to {self.name}.")
        if isinstance(error, httpx2.TransportError) or (status and (status >= 500 or status in (408, 409, 412, 429))):
            what = f"status {status}" if status else type(error).__name__
            return HubUnavailable(f"{self.hub.address} did not answer or broke off ({what}): it is tried again later.")
        said = " ".join(str(error).split())[:300]
        return BackupRefused(f"{self.hub.address} does not take the backup to {self.repo} ({said}): check backup.to.")


@contextmanager
def _lfs_unless(public: bool) -> Iterator[None]:
    """Elsewhere than on the public hub there may be no Xet, which huggingface_hub takes for granted."""
    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = before or not public
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before
