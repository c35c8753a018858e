"""A ModelScope site that says whatever a test wants."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from tests.loopback import loopback_hub

COMMIT, OLDER = "a" * 40, "b" * 40


def refusal(kind: type[Exception], ask: Callable[[], Any]) -> str:
    """The one sentence that `ask` raises, as an error of exactly this kind."""
    with pytest.raises(kind) as caught:
        ask()
    message = str(caught.value)
    assert type(caught.value) is kind and "\n" not in message
    return message


def listing(*rows: dict[str, Any], head: Any = COMMIT) -> dict[str, Any]:
    """An answer of `repo/files`."""
    data = {"Files": list(rows), "LatestCommitter": {"Id": head}}
    return {"Code": 200, "Success": True, "Data": data}


def row(path: Any = "config.json", **changes: Any) -> dict[str, Any]:
    """One file of it."""
    return {"Path": path, "Type": "blob", "Size": 2, "Sha256": "c" * 64, "Revision": COMMIT} | changes


def answering(answer: Callable[[Request], Any]) -> AbstractContextManager[str]:
    """A site that says the same to every request."""
    return loopback_hub(Path(__file__).parent, lambda _: Starlette(routes=[Route("/{path:path}", answer)]))
