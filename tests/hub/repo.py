"""A repo as the fault-injecting hub holds it: contents by path, a commit, who may read it, and what its listing claims."""

import hashlib
from collections.abc import Callable
from typing import Any

from tests.hub.content import Content, Held
from tunesmith.hub.shelf import git_blob_id, lfs_pointer

Row = dict[str, Any]
_LARGE_BYTES = 1 << 20


class Repo:
    """Files above 1 MiB are LFS files: listed with a sha256 and served by the CDN, as on the public hub."""

    def __init__(self, files: dict[str, Content], token: str | None = None, private: bool = False) -> None:
        self.versions: dict[str, dict[str, Content]] = {}
        """Every commit that can be asked for."""
        self._digests: dict[Content, str] = {}
        self.push(files)
        self.token = token
        """What a reader must send; None when everybody may read."""
        self.private = private
        """Whether the repo denies that it exists to those who have no token."""
        self.claim: Callable[[list[Row]], list[Row]] = lambda rows: rows
        """The last word on the listing: hostile and broken hubs are made with it."""

    def push(self, files: dict[str, Content], forget: bool = False) -> None:
        """A new commit on main; `forget` makes the older ones unknown, as a force-push and a clean-up do."""
        text = repr([(path, content.size, self.digest(content)) for path, content in sorted(files.items())])
        self.commit = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        if forget:
            self.versions.clear()
        self.versions[self.commit] = dict(files)

    @property
    def files(self) -> dict[str, Content]:
        """Of main."""
        return self.versions[self.commit]

    def at(self, revision: str) -> dict[str, Content] | None:
        return self.versions.get(self.commit if revision == "main" else revision)

    def digest(self, content: Content) -> str:
        """A file's ETag: sha256 of a large one, git's id of a small one."""
        if content not in self._digests:
            large = is_large(content)
            self._digests[content] = content.sha256 if large else git_blob_id(content.read(0, content.size))
        return self._digests[content]

    def siblings(self, files: dict[str, Content]) -> list[Row]:
        """The files as model_info lists them."""
        return self.claim([self._sibling(path, content) for path, content in sorted(files.items())])

    def tree(self, files: dict[str, Content]) -> list[Row]:
        """The same as the tree endpoint says it."""
        rows = []
        for row in self.siblings(files):
            leaf = {"type": "file", "oid": row.get("blobId"), "size": row.get("size"), "path": row["rfilename"]}
            if lfs := row.get("lfs"):
                leaf["lfs"] = {"oid": lfs.get("sha256"), "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
            rows.append(leaf)
        return rows

    def _sibling(self, path: str, content: Content) -> Row:
        size, digest = content.size, self.digest(content)
        if not is_large(content):
            return {"rfilename": path, "size": size, "blobId": digest}
        pointer = lfs_pointer(digest, size)
        lfs = {"sha256": digest, "size": size, "pointerSize": len(pointer)}
        return {"rfilename": path, "size": size, "blobId": git_blob_id(pointer), "lfs": lfs}


def is_large(content: Content) -> bool:
    """Whether git-lfs would keep it."""
    return content.size >= _LARGE_BYTES


def tiny_repo(weights: Content, **more: Content) -> Repo:
    """A repo with two small files and one of weights."""
    small: dict[str, Content] = {"config.json": Held(b'{"model_type": "llama"}'), "tokenizer.json": Held(b"{}")}
    return Repo({**small, "model.safetensors": weights, **more})


def many_small(count: int) -> Repo:
    """A repo of `count` files of about a kilobyte, in folders of a hundred."""
    return Repo({f"part{n // 100:03d}/{n:05d}.json": Held(b'{"n": %d}' % n + b" " * 1000) for n in range(count)})
