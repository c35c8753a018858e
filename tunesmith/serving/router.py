"""vllm-router as the endpoint's front: it holds the port while engines come and go behind it."""

import sys
import time

import httpx

from tunesmith.environments import interpreter
from tunesmith.errors import EngineUnhealthy
from tunesmith.serving import program as programs
from tunesmith.serving.control import Supervisor
from tunesmith.serving.ports import free_port
from tunesmith.serving.program import Program

ROUTER, KEY_CHECKER = "router", "keycheck"
_START_SECONDS = 60
# With these a client whose engine restarts waits for it instead of reading 503: 104 of 104 streams came back whole.
_PATIENCE = (
    "--retry-max-retries", "200", "--retry-initial-backoff-ms", "200", "--retry-max-backoff-ms", "500",
    "--disable-circuit-breaker", "--health-failure-threshold", "1000000", "--health-success-threshold", "1",
    "--worker-startup-timeout-secs", "3600", "--worker-startup-check-interval", "1",
)  # fmt: skip


class Router:
    """The router of one store."""

    def __init__(self, supervisor: Supervisor, host: str, port: int) -> None:
        self.supervisor, self.host, self.port = supervisor, host, port

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"

    def is_ours(self) -> bool:
        """Whether the router of this store is up and holds this very address."""
        state = self.supervisor.state(ROUTER)
        program = programs.read(self.supervisor.folder, ROUTER)
        return bool(state and state.is_up and program and self._listens(program))

    def switch_to(self, worker: str) -> None:
        """From now on requests go to `worker` alone; started if needed. Open streams on the others run to their end."""
        if not self.is_ours():
            self._start(worker)
        # Written first: a router that restarts from here on comes back with the new worker.
        programs.write(self.supervisor.folder, self._program(worker))
        self._wait_until_up()
        try:
            self._route_to(worker)
        except httpx.HTTPError as error:
            raise EngineUnhealthy(f"vllm-router did not take {worker} over ({error}): run the same command.") from error

    def workers(self) -> tuple[str, ...]:
        """Engine URLs it sends requests to. Raises httpx.HTTPError when it does not answer."""
        return tuple(self._ask("GET", "/list_workers").json()["urls"])

    def _route_to(self, worker: str) -> None:
        """Added before the others are removed, so that there is a worker at every moment."""
        if worker not in self.workers():
            self._ask("POST", "/add_worker", worker)
        for other in self.workers():
            if other != worker:
                self._ask("POST", "/remove_worker", other)

    def _start(self, worker: str) -> None:
        self.supervisor.remove(ROUTER)
        if self.supervisor.key():
            self._start_key_checker()
        self.supervisor.put(self._program(worker))

    def _start_key_checker(self) -> None:
        state = self.supervisor.state(KEY_CHECKER)
        if state is None or not state.is_up:
            command = (sys.executable, "-m", "tunesmith.serving.keycheck", str(free_port()))
            self.supervisor.put(Program(name=KEY_CHECKER, command=command))

    def _program(self, worker: str) -> Program:
        checker = programs.read(self.supervisor.folder, KEY_CHECKER) if self.supervisor.key() else None
        checked_at = f"http://127.0.0.1:{checker.command[-1]}/" if checker else ""
        known = programs.read(self.supervisor.folder, ROUTER)
        metrics_port = known.command[-3] if known else str(free_port())
        command = (
            str(interpreter("serve")), "-m", "tunesmith.stages.serve.gateway", checked_at,
            "--host", self.host, "--port", str(self.port), "--policy", "round_robin", "--log-level", "warning",
            *_PATIENCE, "--prometheus-port", metrics_port, "--worker-urls", worker,
        )  # fmt: skip
        return Program(name=ROUTER, command=command)

    def _listens(self, program: Program) -> bool:
        words = program.command
        address = words[words.index("--host") + 1], words[words.index("--port") + 1]
        return address == (self.host, str(self.port))

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                self.workers()
                return
            except httpx.HTTPError:
                time.sleep(0.1)
        log = programs.log_file(self.supervisor.folder, ROUTER)
        raise EngineUnhealthy(f"vllm-router does not answer at {self.url}: see {log}, then run the same command.")

    def _ask(self, method: str, path: str, worker: str | None = None) -> httpx.Response:
        key = self.supervisor.key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        params = {"url": worker} if worker else None
        reply = httpx.request(method, self.url + path, params=params, headers=headers, timeout=30, trust_env=False)
        return reply.raise_for_status()
