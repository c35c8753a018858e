"""Asking a live engine the held-out rows, many at once, the way clients will."""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import httpx

from tunesmith.data.rows import Row
from tunesmith.errors import EngineUnhealthy

_AT_ONCE = 32
_SECONDS_PER_ANSWER = 600


class Asked(NamedTuple):
    answers: tuple[str, ...]
    tokens_per_second: float
    """Answer tokens of all rows together over the wall time."""


class _Reply(NamedTuple):
    text: str
    num_tokens: int


def ask(url: str, model: str, rows: Sequence[Row], max_tokens: int, key: str | None) -> Asked:
    """The engine's greedy answers, in the order of the rows. Raises EngineUnhealthy when one is not answered."""
    began = time.monotonic()
    try:
        replies = asyncio.run(_ask_all(url, model, rows, max_tokens, key))
    except httpx.HTTPStatusError as error:
        said = f"{error.response.status_code} {error.response.text[:300]}"
        raise EngineUnhealthy(f"The engine answered a held-out row with {said}") from error
    except httpx.HTTPError as error:
        raise EngineUnhealthy(f"The engine broke off at the held-out rows with {error!r}") from error
    seconds = max(time.monotonic() - began, 1e-9)
    return Asked(tuple(reply.text for reply in replies), sum(reply.num_tokens for reply in replies) / seconds)


async def _ask_all(url: str, model: str, rows: Sequence[Row], max_tokens: int, key: str | None) -> list[_Reply]:
    """Every row but its last turn, at most _AT_ONCE at a time."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=_AT_ONCE)
    timeout = httpx.Timeout(_SECONDS_PER_ANSWER, pool=None)
    fixed = {"model": model, "temperature": 0, "max_tokens": max_tokens}
    async with httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout, trust_env=False) as client:
        asking = [_ask_one(client, url, {**fixed, "messages": row[:-1]}) for row in rows]
        return await asyncio.gather(*asking)


async def _ask_one(client: httpx.AsyncClient, url: str, body: dict[str, object]) -> _Reply:
    reply = await client.post(f"{url}/v1/chat/completions", json=body)
    said = reply.raise_for_status().json()
    return _Reply(said["choices"][0]["message"]["content"] or "", int(said["usage"]["completion_tokens"]))
