"""The loopback hub's second language: what ModelScope's clients ask for, over the same folder of repos.

`MODELSCOPE_ENDPOINT=http://host:port` is all a client needs. The one branch is `master`.
"""

import hmac
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tunesmith.hub.sending import File
from tunesmith.hub.shelf import KINDS, Entry, Repository, Shelf, commit_of
from tunesmith.store import sha256

_MOST_ENTRIES = 3000
"""A listing of models is cut here, without a word, as the public site cuts it."""
_BRANCHES = ("master", "main")


class Refused(Exception):
    """An answer that is not a file, in ModelScope's envelope."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def refuse(_: Request, error: Exception) -> Response:
    """The handler that turns Refused into its answer."""
    assert isinstance(error, Refused)
    return JSONResponse({"Code": error.status, "Message": error.message, "Success": False, "Data": None}, error.status)


def routes(shelf: Shelf) -> list[Route]:
    """To stand before the other routes of the hub."""
    answers = _Answers(shelf)
    return [
        Route("/api/v1/{kind}/{owner}/{name}/revisions", answers.revisions),
        Route("/api/v1/{kind}/{owner}/{name}/repo/files", answers.files),
        Route("/api/v1/{kind}/{owner}/{name}/repo/tree", answers.pages),
        Route("/api/v1/{kind}/{owner}/{name}/repo", answers.content),
    ]


class _Found(NamedTuple):
    repository: Repository
    entries: dict[str, Entry]
    commit: str


class _Answers:
    """One method per endpoint; plain functions, so Starlette runs them in threads."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._small: dict[tuple[str, int], str] = {}
        """sha256 of small files, which the shelf knows by git's id."""

    def revisions(self, request: Request) -> Response:
        self._find(request)
        return _said({"RevisionMap": {"Branches": [{"Revision": "master"}], "Tags": []}})

    def files(self, request: Request) -> Response:
        found = self._find(request)
        return _listed(found, self._rows(request, found)[:_MOST_ENTRIES])

    def pages(self, request: Request) -> Response:
        """What datasets are listed by: pages counted from 1."""
        found = self._find(request)
        size, number = _number(request, "PageSize", 200), _number(request, "PageNumber", 1)
        return _listed(found, self._rows(request, found)[size * (number - 1) : size * number])

    def content(self, request: Request) -> Response:
        found = self._find(request)
        path = request.query_params.get("FilePath", "")
        entry = found.entries.get(path)
        if entry is None or entry.file is None:
            raise Refused(404, f"no file {path!a} here")
        return File(entry.file, headers={"ETag": f'"{entry.etag}"'}, media_type="application/octet-stream")

    def _find(self, request: Request) -> _Found:
        kind, owner, name = (request.path_params[key] for key in ("kind", "owner", "name"))
        repository = self._shelf.repository(kind, owner, name) if kind in KINDS else None
        if repository is None:
            raise Refused(404, f"no repo {owner}/{name} here")
        _check_token(request, repository)
        entries = repository.entries()
        commit = commit_of(entries)
        revision = request.query_params.get("Revision") or "master"
        if revision not in (*_BRANCHES, commit):
            raise Refused(404, f"{owner}/{name} has master and {commit}, not {revision!a}")
        return _Found(repository, entries, commit)

    def _rows(self, request: Request, found: _Found) -> list[dict[str, Any]]:
        root = request.query_params.get("Root", "").strip("/")
        prefix = f"{root}/" if root else ""
        recursive = request.query_params.get("Recursive", "").lower() in ("true", "1")
        rows: dict[str, dict[str, Any]] = {}
        for path, entry in found.entries.items():
            if not path.startswith(prefix):
                continue
            folders = _folders(path, prefix)
            for folder in folders if recursive else folders[:1]:
                rows[folder] = _row(folder, found.commit, Type="tree", Size=0, Sha256="", IsLFS=False)
            if recursive or not folders:
                rows[path] = self._leaf(entry, found.commit)
        return list(rows.values())

    def _leaf(self, entry: Entry, commit: str) -> dict[str, Any]:
        digest = entry.sha256 or (self._small_digest(entry.file, entry) if entry.file else "")
        return _row(entry.path, commit, Type="blob", Size=entry.size, Sha256=digest, IsLFS=entry.sha256 is not None)

    def _small_digest(self, file: Path, entry: Entry) -> str:
        key = (entry.blob_id, entry.size)
        if key not in self._small:
            self._small[key] = sha256(file)
        return self._small[key]


def _check_token(request: Request, repository: Repository) -> None:
    """The listing of a gated repo wants the token too, as the public site has it."""
    if repository.token is None:
        return
    cookies = SimpleCookie(request.headers.get("cookie", ""))
    session = cookies["m_session_id"].value if "m_session_id" in cookies else ""
    sent = request.headers.get("authorization", "").removeprefix("Bearer ") or session
    if not sent:
        raise Refused(401, "this repo wants a token")
    if not hmac.compare_digest(sent.encode(), repository.token.encode()):
        raise Refused(403, "this token has no access")


def _listed(found: _Found, rows: list[dict[str, Any]]) -> Response:
    return _said({"Files": rows, "LatestCommitter": {"Id": found.commit, "ShortId": found.commit[:8]}})


def _said(data: dict[str, Any]) -> Response:
    return JSONResponse({"Code": 200, "Message": "success", "Success": True, "Data": data})


def _row(path: str, commit: str, **facts: Any) -> dict[str, Any]:
    return {"Path": path, "Name": path.rpartition("/")[2], "Revision": commit, "CommitId": commit, **facts}


def _folders(path: str, prefix: str) -> list[str]:
    *parts, _ = path[len(prefix) :].split("/")
    return [prefix + "/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _number(request: Request, name: str, usual: int) -> int:
    said = request.query_params.get(name, "")
    return max(1, int(said)) if said.isascii() and said.isdigit() and len(said) < 7 else usual
