"""What a hub answers that takes uploads, in the words of Hugging Face's API and of ModelScope's; everything in memory."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from tunesmith.hub.shelf import git_blob_id

TOKEN = "hf_only_for_this_hub"
_INLINE = (".json", ".md", ".txt", ".jinja", ".yaml")


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    """Paths whose content came as a blob."""
    commits: list[str] = field(default_factory=list)
    """Their messages."""


@dataclass
class Shelf:
    """What the hub holds."""

    address: str
    storage: str
    """Where blobs are sent."""
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)


class Refused(Exception):
    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status


def reply(hub: Shelf, method: str, path: str, body: bytes, secret: str) -> Any:
    if method == "PUT":
        return _keep(hub, path.rpartition("/")[2], body)
    if TOKEN not in secret:
        raise Refused(401, "no token, or another's")
    if path.startswith("/api/v1/"):
        return {"Code": 200, "Success": True, "Data": _modelscope(hub, method, path.removeprefix("/api/v1/"), body)}
    return _huggingface(hub, path, body)


def _keep(hub: Shelf, digest: str, body: bytes) -> dict[str, str]:
    if hashlib.sha256(body).hexdigest() != digest:
        raise Refused(400, "the bytes are not those of the digest")
    hub.blobs[digest] = body
    return {}


def _huggingface(hub: Shelf, path: str, body: bytes) -> Any:
    if path == "/api/validate-yaml":
        return {}
    if path == "/api/repos/create":
        asked = json.loads(body)
        _create(hub, f"{asked['organization']}/{asked['name']}", asked.get("visibility") == "private")
        return {"url": f"{hub.address}/{asked['organization']}/{asked['name']}"}
    if path.endswith("/info/lfs/objects/batch"):
        return {"transfer": "basic", "objects": _batch(hub, json.loads(body))}
    words = path.removeprefix("/api/models/").split("/")
    repo = _repo(hub, name := "/".join(words[:2]))
    match words[2:]:
        case []:
            return {"id": name, "sha": "0" * 40, "private": repo.private}
        case ["tree", *_]:
            return [_row(repo, name) for name in sorted(repo.files)]
        case ["preupload", *_]:
            return {"files": [_mode(file["path"]) for file in json.loads(body)["files"]]}
        case ["commit", *_]:
            _commit(hub, repo, [json.loads(line) for line in body.splitlines() if line])
            return {"success": True, "commitOid": "0" * 40, "commitUrl": f"{hub.address}/{name}/commit/{'0' * 40}"}
    raise Refused(404, path)


def _modelscope(hub: Shelf, method: str, path: str, body: bytes) -> Any:
    if path == "models":
        asked = json.loads(body)
        _create(hub, f"{asked['Path']}/{asked['Name']}", asked["Visibility"] == 1)
        return {}
    words = path.removeprefix("repos/").split("/")
    name, rest = "/".join(words[1:3]), words[3:]
    if rest == ["info", "lfs", "objects", "batch"]:
        return {"objects": _batch(hub, json.loads(body))}
    repo = _repo(hub, name)
    if rest[:1] == ["commit"]:
        asked = json.loads(body)
        _act(hub, repo, asked["commit_message"], asked["actions"])
    if rest == ["repo", "files"]:
        rows = [_ms_row(repo, one) for one in sorted(repo.files)]
        return {"Files": rows, "LatestCommitter": {"Id": "1" * 40}}
    return {}


def _create(hub: Shelf, name: str, private: bool) -> None:
    if name in hub.repos:
        raise Refused(409, "there is one")
    hub.repos[name] = Repo(private)


def _repo(hub: Shelf, name: str) -> Repo:
    if name not in hub.repos:
        raise Refused(404, f"no repo {name}")
    return hub.repos[name]


def _batch(hub: Shelf, asked: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [{"oid": one["oid"], "size": one["size"]} for one in asked["objects"]]
    for row in rows:
        if row["oid"] not in hub.blobs:
            row["actions"] = {"upload": {"href": f"{hub.storage}/blobs/{row['oid']}"}}
    return rows


def _row(repo: Repo, name: str) -> dict[str, Any]:
    content = repo.files[name]
    row: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": git_blob_id(content)}
    if name in repo.large:
        digest = hashlib.sha256(content).hexdigest()
        row["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
    return row


def _ms_row(repo: Repo, name: str) -> dict[str, Any]:
    content = repo.files[name]
    return {"Path": name, "Type": "blob", "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()}


def _mode(path: str) -> dict[str, Any]:
    mode = "regular" if path.endswith(_INLINE) else "lfs"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}


def _commit(hub: Shelf, repo: Repo, lines: list[dict[str, Any]]) -> None:
    for line in lines:
        value = line["value"]
        match line["key"]:
            case "header":
                repo.commits.append(value["summary"])
            case "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            case "lfsFile":
                _name_blob(hub, repo, value["path"], value["oid"])
            case "deletedFile":
                del repo.files[value["path"]]


def _act(hub: Shelf, repo: Repo, message: str, actions: list[dict[str, Any]]) -> None:
    repo.commits.append(message)
    for action in actions:
        if action["action"] == "delete":
            del repo.files[action["path"]]
        elif action["type"] == "lfs":
            _name_blob(hub, repo, action["path"], action["sha256"])
        else:
            repo.files[action["path"]] = base64.b64decode(action["content"])


def _name_blob(hub: Shelf, repo: Repo, path: str, digest: str) -> None:
    if digest not in hub.blobs:
        raise Refused(400, f"the blob of {path} is not there")
    repo.files[path] = hub.blobs[digest]
    repo.large.add(path)
