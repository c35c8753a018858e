"""A small read-only hub over a folder, with the answers huggingface_hub and transformers ask for.

For sites without internet, and for tests: `HF_ENDPOINT=http://host:port` is all a client needs. Metadata is open to
everyone; the files of a gated repo want its token, as on the public hub. ModelScope's API is answered beside it.
"""

import errno
import hmac
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tunesmith.errors import ModelError, PortBusy
from tunesmith.hub import modelscope_api
from tunesmith.hub.sending import File
from tunesmith.hub.shelf import Entry, Repository, Shelf, commit_of, git_blob_id, lfs_pointer


def serve(folder: Path, host: str, port: int) -> None:
    """Serves the repos below `folder` until it is stopped; port 0 takes a free one.

    Raises ModelError when there is no such folder, PortBusy when the port is taken.
    """
    app = build_app(folder)
    listener = listen(host, port)
    threading.Thread(target=app.state.shelf.warm, daemon=True).start()
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    print(f"Serving {folder} read-only: clients set MODELSCOPE_ENDPOINT or HF_ENDPOINT={address}", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    # Ctrl-C is how it is meant to end.
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def build_app(folder: Path) -> Starlette:
    """The hub as an ASGI application. Raises ModelError when there is no such folder."""
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder} to serve: name one that holds <owner>/<name>/ repos.")
    answers = _Answers(Shelf(folder))
    app = Starlette(
        routes=[
            *modelscope_api.routes(answers.shelf),
            Route("/api/{kind}/{owner}/{name}", answers.info),
            Route("/api/{kind}/{owner}/{name}/revision/{revision:path}", answers.info),
            Route("/api/{kind}/{owner}/{name}/tree/{revision}", answers.tree),
            Route("/api/{kind}/{owner}/{name}/tree/{revision}/{path:path}", answers.tree),
            Route("/cdn/{kind}/{owner}/{name}/{revision}/{path:path}", answers.content),
            Route("/{owner}/{name}/resolve/{revision}/{path:path}", answers.resolve),
            Route("/{kind}/{owner}/{name}/resolve/{revision}/{path:path}", answers.resolve),
        ],
        exception_handlers={_Refused: _refuse, modelscope_api.Refused: modelscope_api.refuse},
    )
    app.state.shelf = answers.shelf
    return app


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PortBusy when somebody else has the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise PortBusy(f"Port {port} on {host} is taken: stop who listens there or choose another --port.") from error


class _Refused(Exception):
    """An answer that is not a file, with the code huggingface_hub tells its errors apart by."""

    def __init__(self, status: int, code: str, message: str, commit: str | None = None) -> None:
        super().__init__(message)
        self.response = JSONResponse({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})
        if commit:
            self.response.headers["X-Repo-Commit"] = commit


def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    return error.response


class _Found(NamedTuple):
    id: str
    repository: Repository
    entries: dict[str, Entry]
    commit: str


class _Answers:
    """One method per endpoint. They are plain functions, so Starlette runs them in threads: hashing blocks nobody."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def info(self, request: Request) -> Response:
        found = self._find(request)
        answer = {
            "id": found.id,
            "author": found.id.split("/")[0],
            "sha": found.commit,
            "private": False,
            "gated": "manual" if found.repository.token is not None else False,
            "tags": [],
            "siblings": [_sibling(entry, "blobs" in request.query_params) for entry in found.entries.values()],
        }
        return JSONResponse(answer, headers={"X-Repo-Commit": found.commit})

    def tree(self, request: Request) -> Response:
        found = self._find(request)
        below = request.path_params.get("path", "").strip("/")
        prefix = f"{below}/" if below else ""
        inside = [entry for path, entry in found.entries.items() if path.startswith(prefix)]
        if prefix and not inside:
            raise _Refused(404, "EntryNotFound", f"{found.id} has no folder {below!a}", found.commit)
        recursive = request.query_params.get("recursive", "").lower() in ("true", "1")
        return JSONResponse(_tree(inside, prefix, recursive), headers={"X-Repo-Commit": found.commit})

    def resolve(self, request: Request) -> Response:
        found, entry, _ = self._readable(request)
        if entry.sha256 is None:
            return self.content(request)
        kind = request.path_params.get("kind", "models")
        address = request.url_for("content", kind=kind, **_names(request), revision=found.commit, path=entry.path)
        return RedirectResponse(str(address), 302, _headers(found, entry))

    def content(self, request: Request) -> Response:
        found, entry, file = self._readable(request)
        return File(file, headers=_headers(found, entry), media_type="application/octet-stream")

    def _find(self, request: Request) -> _Found:
        names = _names(request)
        label = f"{names['owner']}/{names['name']}"
        repository = self.shelf.repository(request.path_params.get("kind", "models"), **names)
        if repository is None:
            raise _Refused(404, "RepoNotFound", f"no repo {label!a} here")
        entries = repository.entries()
        commit = commit_of(entries)
        revision = request.path_params.get("revision", "main")
        if revision not in ("main", commit):
            raise _Refused(404, "RevisionNotFound", f"{label} has main and {commit}, not {revision!a}")
        return _Found(label, repository, entries, commit)

    def _readable(self, request: Request) -> tuple[_Found, Entry, Path]:
        """The listed file a request names; nothing that is not listed can be named."""
        found = self._find(request)
        _check_token(request, found)
        path = request.path_params["path"]
        entry = found.entries.get(path)
        if entry is None:
            raise _Refused(404, "EntryNotFound", f"{found.id} has no file {path!a}", found.commit)
        if entry.file is None:
            raise _Refused(404, "EntryNotFound", f"this mirror holds the metadata of {path!a} alone", found.commit)
        return found, entry, entry.file


def _check_token(request: Request, found: _Found) -> None:
    wanted = found.repository.token
    if wanted is None:
        return
    sent = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not sent:
        raise _Refused(401, "GatedRepo", f"{found.id} is gated: send its token", found.commit)
    if not hmac.compare_digest(sent.encode(), wanted.encode()):
        raise _Refused(403, "GatedRepo", f"{found.id} is gated: this token has no access", found.commit)


def _names(request: Request) -> dict[str, str]:
    return {key: request.path_params[key] for key in ("owner", "name")}


def _headers(found: _Found, entry: Entry) -> dict[str, str]:
    headers = {"X-Repo-Commit": found.commit, "ETag": f'"{entry.etag}"'}
    if entry.sha256:
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    return headers


def _sibling(entry: Entry, blobs: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": entry.path}
    if blobs:
        row |= {"size": entry.size, "blobId": entry.blob_id}
    if blobs and entry.sha256:
        row["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": _pointer_bytes(entry)}
    return row


def _tree(entries: list[Entry], prefix: str, recursive: bool) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for entry in entries:
        *folders, _ = entry.path[len(prefix) :].split("/")
        parents = [prefix + "/".join(folders[: depth + 1]) for depth in range(len(folders))]
        for folder in parents if recursive else parents[:1]:
            rows[folder] = {"type": "directory", "oid": git_blob_id(folder.encode()), "size": 0, "path": folder}
        if recursive or not parents:
            rows[entry.path] = _leaf(entry)
    return list(rows.values())


def _leaf(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "oid": entry.blob_id, "size": entry.size, "path": entry.path}
    if entry.sha256:
        row["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": _pointer_bytes(entry)}
    return row


def _pointer_bytes(entry: Entry) -> int:
    return len(lfs_pointer(entry.sha256 or "", entry.size))
