"""A hub that misbehaves on purpose: the API of `tunesmith.hub.server`, with faults in any answer, and a log of what was asked.

Large files are redirected to a CDN under another name (`localhost`, where the hub is `127.0.0.1`), as the public hub does.
"""

import json
import secrets
import ssl
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from types import TracebackType
from typing import Literal, NamedTuple, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.hub.cas import Cas
from tests.hub.content import Content, Held
from tests.hub.repo import Repo, is_large
from tests.hub.wire import Answer, Head, Listener, Peer

Where = Literal["info", "tree", "resolve", "cdn", "token", "other"]


class Asked(NamedTuple):
    """A request, understood."""

    where: Where
    repo: str
    path: str
    """Of the file; empty for a listing."""
    revision: str
    host: str
    head: Head


@dataclass
class Seen:
    """A request in the log."""

    asked: Asked
    status: int
    start: int
    """Where in the file the answer's bytes begin."""
    sent: int = 0
    """Bytes of the body that went out so far."""


Change = Callable[[Asked, Answer], Answer]


@dataclass
class Rule:
    """Changes the answers to some requests."""

    where: Where
    change: Change
    path: str = "*"
    times: int | None = None
    """How many requests; None for all."""
    skip: int = 0
    """How many requests are spared first."""
    methods: tuple[str, ...] = ("GET",)
    met: int = field(default=0, init=False)

    def takes(self, asked: Asked) -> bool:
        """Whether this request is one of them; counts it."""
        if asked.where != self.where or asked.head.method not in self.methods or not fnmatch(asked.path, self.path):
            return False
        self.met += 1
        return self.met > self.skip and (self.times is None or self.met <= self.skip + self.times)


class FaultyHub:
    """Serves repos until the block ends. `rate` is bytes a second of each connection.

    `tls`: the certificate of the hub; `cdn_tls`: that of its CDN, where it is another one. `xet`: where it has large
    files too.
    """

    def __init__(
        self,
        repos: dict[str, Repo],
        *rules: Rule,
        rate: float | None = None,
        tls: ssl.SSLContext | None = None,
        cdn_tls: ssl.SSLContext | None = None,
        xet: Cas | None = None,
    ) -> None:
        self._xet = xet
        self._tls = tls, cdn_tls or tls
        self.repos = repos
        self.rules = list(rules)
        self.rate = rate
        self.signature_uses: int | None = None
        """How many requests a signed CDN address is good for; None for ever."""
        self.seen: list[Seen] = []
        self._signatures: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._hub, self._cdn = (Listener(self._serve, tls) for tls in self._tls)
        scheme = "https" if self._tls[0] else "http"
        self.address = f"{scheme}://127.0.0.1:{self._hub.port}"
        self.cdn = f"{scheme}://localhost:{self._cdn.port}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hub.close()
        self._cdn.close()

    def add(self, *rules: Rule) -> None:
        with self._lock:
            self.rules += rules

    def requests(self, where: Where | None = None, path: str = "*") -> list[Seen]:
        """What was asked, in order of arrival."""
        with self._lock:
            return [one for one in self.seen if where in (None, one.asked.where) and fnmatch(one.asked.path, path)]

    def sent(self, path: str = "*") -> int:
        """Bytes of files that went out."""
        return sum(one.sent for one in self.requests(None, path) if one.asked.where in ("resolve", "cdn"))

    def sent_by_file(self) -> dict[str, int]:
        totals: dict[str, int] = defaultdict(int)
        for one in self.requests():
            totals[one.asked.path] += one.sent if one.asked.where in ("resolve", "cdn") else 0
        return totals

    def connections(self) -> int:
        """How many were opened, to both hosts."""
        return self._hub.connections + self._cdn.connections

    def tokens(self) -> dict[str, set[str]]:
        """Which Authorization and Cookie headers each host was shown."""
        shown: dict[str, set[str]] = defaultdict(set)
        for one in self.requests():
            headers = one.asked.head.headers
            shown[one.asked.host] |= {headers[name] for name in ("authorization", "cookie") if name in headers}
        return shown

    def _serve(self, peer: Peer) -> None:
        while head := peer.read():
            asked = understand(head)
            with self._lock:
                answer = self._answer(asked)
                for rule in self.rules:
                    answer = rule.change(asked, answer) if rule.takes(asked) else answer
                seen = Seen(asked, answer.status, answer.start)
                self.seen.append(seen)

            def count(sent: int, seen: Seen = seen) -> None:
                seen.sent += sent

            if not peer.write(answer, head.method == "HEAD", count):
                return

    def _answer(self, asked: Asked) -> Answer:
        repo = self.repos.get(asked.repo)
        token = asked.head.headers.get("authorization", "").removeprefix("Bearer ")
        denied = repo is not None and repo.token is not None and token != repo.token
        if repo is None or (denied and repo.private and asked.where != "cdn"):
            return refusal(404, "RepoNotFound", f"no repo {asked.repo}")
        files = repo.at(asked.revision)
        if files is None:
            return refusal(404, "RevisionNotFound", f"no revision {asked.revision}")
        if asked.where == "info":
            return self._info(asked, repo, files)
        if asked.where == "token" and self._xet:
            return self._xet.token()
        if asked.where == "tree":
            return said(repo.tree(files)).saying(X_Repo_Commit=repo.commit)
        if asked.path not in files:
            return refusal(404, "EntryNotFound", f"no file {asked.path}")
        if asked.where == "cdn":
            return self._signed(asked, files[asked.path], repo)
        if denied:
            return refusal(403 if token else 401, "GatedRepo", f"{asked.repo} is gated")
        return self._resolve(asked, files[asked.path], repo)

    def _info(self, asked: Asked, repo: Repo, files: dict[str, Content]) -> Answer:
        commit = repo.commit if asked.revision == "main" else asked.revision
        gated = "manual" if repo.token and not repo.private else False
        facts = {"id": asked.repo, "sha": commit, "private": repo.private, "gated": gated}
        return said(facts | {"tags": [], "siblings": repo.siblings(files)}).saying(X_Repo_Commit=commit)

    def _resolve(self, asked: Asked, content: Content, repo: Repo) -> Answer:
        digest = repo.digest(content)
        commit = repo.commit if asked.revision == "main" else asked.revision
        if not is_large(content):
            return ranged(asked, content, digest).saying(X_Repo_Commit=commit).having(rate=self.rate)
        signature = secrets.token_hex(8)
        self._signatures[signature] = 0
        place = f"{self.cdn}/cdn/{asked.repo}/{commit}/{quote(asked.path)}?Signature={signature}"
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(content.size), "ETag": f'"{digest}"'}
        kept = self._xet.named(content, f"{self.address}/api/models/{asked.repo}", commit) if self._xet else {}
        return Answer(302, {"Location": place, "X-Repo-Commit": commit} | linked | kept)

    def _signed(self, asked: Asked, content: Content, repo: Repo) -> Answer:
        (signature,) = parse_qs(urlsplit(asked.head.target).query).get("Signature", [""])
        self._signatures[signature] = uses = self._signatures.get(signature, 1 << 30) + 1
        if uses > (self.signature_uses or 1 << 40):
            body = Held(b"<Code>AccessDenied</Code>")
            return Answer(403, {"Content-Type": "application/xml"}, body, length=body.size)
        return ranged(asked, content, repo.digest(content)).having(rate=self.rate)


def understand(head: Head) -> Asked:
    """Which endpoint, repo and file a request is about."""
    parts = [unquote(part) for part in urlsplit(head.target).path.strip("/").split("/")]
    host = head.headers.get("host", "")
    if parts[0] == "api" and len(parts) >= 4:
        endpoints: dict[str, Where] = {"tree": "tree", "xet-read-token": "token"}
        where = endpoints.get(parts[4] if len(parts) > 4 else "", "info")
        revision = "/".join(parts[5:]) or "main"
        return Asked(where, "/".join(parts[2:4]), "", revision, host, head)
    if parts[0] == "cdn" and len(parts) > 4:
        return Asked("cdn", "/".join(parts[1:3]), "/".join(parts[4:]), parts[3], host, head)
    if len(parts) > 4 and parts[2] == "resolve":
        return Asked("resolve", "/".join(parts[:2]), "/".join(parts[4:]), parts[3], host, head)
    return Asked("other", "", "", "", host, head)


def ranged(asked: Asked, content: Content, digest: str) -> Answer:
    """The file, or the part of it that a Range header names."""
    whole = Answer(content=content, length=content.size).saying(ETag=f'"{digest}"', Accept_Ranges="bytes")
    span = asked.head.headers.get("range", "").removeprefix("bytes=")
    if not span or asked.head.headers.get("if-range", f'"{digest}"') != f'"{digest}"':
        return whole
    first, _, last = span.partition("-")
    start = int(first) if first else max(0, content.size - int(last))
    stop = min(int(last) + 1, content.size) if first and last else content.size
    if start >= content.size:
        return Answer(416, {"Content-Range": f"bytes */{content.size}"})
    part = whole.having(status=206, start=start, length=stop - start)
    return part.saying(Content_Range=f"bytes {start}-{stop - 1}/{content.size}")


def said(value: object) -> Answer:
    body = json.dumps(value).encode()
    return Answer(headers={"Content-Type": "application/json"}, content=Held(body), length=len(body))


def refusal(status: int, code: str, message: str) -> Answer:
    return said({"error": message}).having(status=status).saying(X_Error_Code=code, X_Error_Message=message)
