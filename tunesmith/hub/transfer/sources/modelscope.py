"""ModelScope through its own API: a branch pinned to a commit, its files with size and sha256, where the bytes are.

Its `master` is what `main` is elsewhere, so `main` is taken for it. What arrives goes into the ordinary cache.
"""

import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from tunesmith.artifacts import FileEntry
from tunesmith.errors import GatedRepo, HubUnavailable, ModelError, RepoNotFound
from tunesmith.hub.names import MOST_BYTES, check_commit, check_path, check_sha256, fault_of_path
from tunesmith.hub.transfer.source import Kind, Listed, Remote
from tunesmith.hub.transfer.sources.asking import Asker, Denied, NoAnswer

PUBLIC = "https://modelscope.cn"
_CUT_AT = 3000
"""`repo/files` silently leaves out what comes after so many entries; folders are then asked for one by one."""
_PAGE = 200
_FIRST_PAGE = {"Recursive": "False", "PageNumber": "1", "PageSize": str(_PAGE)}
_MOST_REQUESTS = 5000
_COMMIT = re.compile(r"[0-9a-f]{40}")

_Row = dict[str, Any]


class ModelScope:
    """A site with ModelScope's API: `address`, else MODELSCOPE_ENDPOINT, else the public one."""

    def __init__(self, address: str | None = None) -> None:
        self.address = (address or _default()).rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            raise ModelError(f"The ModelScope address {self.address} is no URL: write it as https://host.")
        self._asker = Asker(self.address, self._credentials())

    @property
    def name(self) -> str:
        return "modelscope" if self.address == PUBLIC else f"modelscope at {self.address}"

    def listing(self, repo: str, revision: str, kind: Kind = "model") -> Listed:
        """The files at the commit the revision stands for, listed at that commit, so that no later push mixes in.

        Raises RepoNotFound, GatedRepo, HubUnavailable, or ModelError when what it says cannot be used.
        """
        if fault_of_path(revision):
            raise RepoNotFound(f"{revision!a} is no revision: name a branch, a tag or a commit, such as master.")
        commit = self.pin(repo, revision, kind)
        rows = self._rows(repo, commit, kind)
        files = tuple(self._entry(row) for row in rows if row.get("Type") != "tree")
        paths = {entry.path for entry in files}
        if len(paths) < len(files):
            raise ModelError(f"{self.name} lists a file of {repo} twice: do not use it, take another source.")
        return Listed(commit, files)

    def locate(self, repo: str, commit: str, entry: FileEntry, kind: Kind = "model") -> Remote:
        """The address that answers ranges, or redirects to one that does; the token is for ModelScope's host alone."""
        query = urlencode({"Revision": commit, "FilePath": entry.path})
        return Remote(f"{self.address}{_place(repo, kind)}/repo?{query}", self._credentials())

    def refusal(self, status: int, code: str | None, repo: str, commit: str, kind: Kind) -> ModelError:
        """The sentence for a file that the site refused."""
        if status == 404:
            return ModelError(f"{self.name} lists files of {repo} that it does not serve: name another source.")
        return self._refusal(status, repo, commit, kind)

    def pin(self, repo: str, revision: str, kind: Kind) -> str:
        """The commit a branch or a tag stands for now."""
        if _COMMIT.fullmatch(revision):
            return revision
        branch = "master" if revision == "main" else revision
        data = self._ask(repo, branch, kind, **_FIRST_PAGE)
        if said := _head(data):
            return check_commit(said, self.name)
        commit = check_commit(_newest(_files(data)), self.name)
        # Not the branch's own commit when the last push only took files away.
        if _identities(data) != _identities(self._ask(repo, commit, kind, **_FIRST_PAGE)):
            raise ModelError(f"{self.name} names no commit for {branch} of {repo}: give a commit as the revision.")
        return commit

    def _rows(self, repo: str, commit: str, kind: Kind) -> list[_Row]:
        if kind == "dataset":
            return self._pages(repo, commit)
        rows = _files(self._ask(repo, commit, kind, Recursive="True"))
        return rows if len(rows) < _CUT_AT else list(self._walk(repo, commit))

    def _pages(self, repo: str, commit: str) -> list[_Row]:
        rows: list[_Row] = []
        for page in range(1, _MOST_REQUESTS):
            query = {"Recursive": "True", "PageNumber": str(page), "PageSize": str(_PAGE)}
            found = _files(self._ask(repo, commit, "dataset", **query))
            rows += found
            if len(found) < _PAGE:
                return rows
        raise ModelError(f"{self.name} lists {repo} without end: take another source.")

    def _walk(self, repo: str, commit: str) -> Iterator[_Row]:
        folders = [""]
        for number, folder in enumerate(folders):
            rows = _files(self._ask(repo, commit, "model", Recursive="False", **({"Root": folder} if folder else {})))
            if len(rows) >= _CUT_AT or number >= _MOST_REQUESTS:
                raise ModelError(
                    f"{self.name} does not list all of {folder or 'the top folder'} of {repo}: take another source."
                )
            # A list that grows while it is read: folders are visited level by level.
            folders += [check_path(str(row.get("Path")), self.name) for row in rows if row.get("Type") == "tree"]
            yield from rows

    def _ask(self, repo: str, revision: str, kind: Kind, **query: str) -> Any:
        path = f"{_place(repo, kind)}/repo/{'tree' if kind == 'dataset' else 'files'}"
        try:
            answer = self._asker.ask(path, Revision=revision, **query)
        except NoAnswer as error:
            raise HubUnavailable(
                f"ModelScope at {self.address} did not answer or broke off ({error}): "
                "check the network and MODELSCOPE_ENDPOINT, then run the same command again."
            ) from error
        except Denied as error:
            raise self._refusal(error.status, repo, revision, kind) from error
        if not isinstance(answer, dict) or answer.get("Success") is False:
            raise ModelError(f"{self.address} does not answer like ModelScope: check MODELSCOPE_ENDPOINT.")
        return answer.get("Data")

    def _entry(self, row: _Row) -> FileEntry:
        path = check_path(str(row.get("Path")), self.name)
        size, digest = row.get("Size"), row.get("Sha256")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MOST_BYTES:
            raise ModelError(f"{self.name} lists no size for {path}: take another source.")
        return FileEntry(
            path=path, size=size, sha256=check_sha256(str(digest).lower() if digest else None, path, self.name)
        )

    def _credentials(self) -> dict[str, str]:
        token = os.environ.get("MODELSCOPE_API_TOKEN")
        if not token or self.address not in (PUBLIC, _default()):
            return {}
        # Older endpoints know the cookie alone.
        return {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"}

    def _refusal(self, status: int, repo: str, revision: str, kind: Kind) -> ModelError:
        if status in (401, 403):
            page = f"{self.address}{'/datasets/' if kind == 'dataset' else '/models/'}{repo}"
            return GatedRepo(f"{repo} is not open to everyone on {self.name}: {self._way_in(page)}.")
        if status == 404:
            return RepoNotFound(
                f"There is no {kind} repo {repo} with a revision {revision} on {self.name}: check the spelling, "
                "or set MODELSCOPE_API_TOKEN when it is a private one."
            )
        return ModelError(f"{self.name} refuses (status {status}): check MODELSCOPE_ENDPOINT and MODELSCOPE_API_TOKEN.")

    def _way_in(self, page: str) -> str:
        if self._credentials():
            return f"the token in MODELSCOPE_API_TOKEN has no access; ask for it at {page}"
        return f"ask for access at {page} and set MODELSCOPE_API_TOKEN"


def _default() -> str:
    return (os.environ.get("MODELSCOPE_ENDPOINT") or PUBLIC).rstrip("/")


def _place(repo: str, kind: Kind) -> str:
    if repo.count("/") != 1 or fault_of_path(repo):
        raise RepoNotFound(f"{repo!a} is no {kind} repo's name: write it as owner/name.")
    return f"/api/v1/{kind}s/{quote(repo)}"


def _files(data: Any) -> list[_Row]:
    rows = data.get("Files") if isinstance(data, dict) else data
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _head(data: Any) -> str | None:
    committer = data.get("LatestCommitter") if isinstance(data, dict) else None
    said = committer.get("Id") if isinstance(committer, dict) else None
    return str(said) if said else None


def _newest(rows: list[_Row]) -> str | None:
    """Where a site names no commit for the branch: the last one that touched a listed file or folder."""
    dated = [(row.get("CommittedDate") or 0, row.get("Revision") or row.get("CommitId")) for row in rows]
    known = [(when, commit) for when, commit in dated if isinstance(when, int) and isinstance(commit, str)]
    return max(known)[1] if known else None


def _identities(data: Any) -> set[tuple[Any, ...]]:
    return {(str(row.get("Path")), str(row.get("Size")), str(row.get("Sha256"))) for row in _files(data)}
