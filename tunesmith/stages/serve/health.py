"""Waiting for an engine: its log passed on, its death noticed at once, and what it died of."""

import re
import time
from pathlib import Path

import httpx

from tunesmith.errors import EngineUnhealthy, ServeRefused, TunesmithError
from tunesmith.serving.control import ProgramState, Supervisor

_POLL_SECONDS = 0.25
_MISTAKES = (
    (r"unrecognized arguments: .*", "correct serve.engine_args"),
    (r"error: argument .*", "correct serve.engine_args"),
    (
        r"max_model_len .* is greater than the derived max_model_len[^.]*",
        "lower serve.max_model_len or train.max_length",
    ),
    (r"[^.]*larger than the available KV cache[^.]*", "raise serve.kv_cache_gib or lower serve.max_model_len"),
    (
        r"[^:]*less than desired GPU memory utilization[^.]*|No available memory for the cache blocks",
        "lower gpu-memory-utilization in serve.engine_args, or `tunesmith stop` what else is on the GPU",
    ),
    (r"torch\.\w+ is not supported for quantization method [^.]*", "set dtype in serve.engine_args to one it supports"),
)
"""What vLLM says of a mistake that no second try mends, and what to do."""
_TELLING = re.compile(r"(\w*(Error|Exception)\b|error):? .+|Killed|Segmentation fault|out of memory")
_NOT_TELLING = re.compile(r"See root cause above|^\s*(File|raise|\^)")


class EngineLog:
    """The engine's log from its present start on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = path.stat().st_size if path.exists() else 0
        self.lines: list[str] = []

    def pass_on(self) -> None:
        """Prints what came since the last look, whole lines only."""
        if not self.path.exists():
            return
        with self.path.open(errors="replace") as file:
            file.seek(self.offset)
            while (line := file.readline()).endswith("\n"):
                self.offset = file.tell()
                self.lines.append(line.rstrip())
                print(f"engine: {line.rstrip()}", flush=True)

    def explain(self) -> TunesmithError:
        """The error for an engine that ended by itself."""
        for pattern, advice in _MISTAKES:
            for line in self.lines:
                if found := re.search(pattern, line):
                    return ServeRefused(f"vLLM cannot serve this: {found[0].strip()}: {advice}.")
        return EngineUnhealthy(f"The engine ended while starting ({self.last_words()}): see {self.path}.")

    def last_words(self) -> str:
        """The last line that names an error, else the last line."""
        lines = [line for line in self.lines if line.strip() and not _NOT_TELLING.search(line)]
        telling = [found[0] for line in lines if (found := _TELLING.search(line))]
        return (telling or lines or ["it said nothing"])[-1].strip()


def wait_until_healthy(supervisor: Supervisor, started: ProgramState, url: str, log: EngineLog, seconds: int) -> None:
    """Returns when /health answers 200. Raises ServeRefused or EngineUnhealthy when the process ends or time is up."""
    deadline = time.monotonic() + seconds
    while not _is_healthy(url):
        log.pass_on()
        if _has_died(supervisor, started):
            log.pass_on()
            raise log.explain()
        if time.monotonic() > deadline:
            raise EngineUnhealthy(
                f"The engine was not healthy after {seconds} s (last: {log.last_words()}): "
                f"raise serve.start_seconds, or see {log.path}."
            )
        time.sleep(_POLL_SECONDS)
    log.pass_on()


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _has_died(supervisor: Supervisor, started: ProgramState) -> bool:
    """Whether the process of `started` is gone; the supervisor may have started another by now."""
    state = supervisor.state(started.name)
    return state is None or not state.is_up or (started.pid != 0 and state.pid != started.pid)
