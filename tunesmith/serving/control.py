"""The process supervisor of a store: one supervisord in `STORE/serve/`, which outlives the run that started it.

It daemonizes into a session of its own, so neither the end nor a kill of the run's process group reaches it. Engine,
router and key checker are its children and end with it.
"""

import fcntl
import hashlib
import http.client
import os
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from supervisor.xmlrpc import Faults, SupervisorTransport

from tunesmith.errors import EngineUnhealthy, ServeRefused, StoreNotWritable
from tunesmith.serving import program as programs
from tunesmith.serving.program import Program
from tunesmith.specs.spec import Spec
from tunesmith.store import Store, write_atomically

KEY = "VLLM_API_KEY"
"""Where the supervisor's environment holds the API key (vLLM's own name): `ps` never shows it, no file holds it."""
_SOCKET_LIMIT = 90
"""Bytes a Unix socket's path may have, with room for the suffix supervisord binds first."""
_START_SECONDS = 30
_CONF = """\
[supervisord]
pidfile=supervisord.pid
logfile=supervisord.log
logfile_maxbytes=5MB
logfile_backups=1
childlogdir=logs

[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[include]
files = programs/*.conf
"""


class ProgramState(Spec):
    """What the supervisor says of one program."""

    name: str
    state: str
    """supervisord's word: RUNNING, STARTING, STOPPED, BACKOFF, EXITED, FATAL …"""
    pid: int
    """0 when it is not running."""
    log: Path

    @property
    def is_up(self) -> bool:
        return self.state in ("RUNNING", "STARTING")


class Supervisor:
    """Speaks to the supervisord of one store."""

    def __init__(self, store: Store) -> None:
        self.folder = store.root / "serve"

    def is_running(self) -> bool:
        return self._pid() is not None

    def start(self, environment: Mapping[str, str]) -> None:
        """Starts supervisord unless it runs, with exactly these variables. Raises EngineUnhealthy when it does not."""
        if self.is_running():
            return
        self._lay_out()
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", "supervisord.conf"]
        with (self.folder / "boot.log").open("w") as log:
            subprocess.run(
                command, cwd=self.folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_running():
            if time.monotonic() > deadline:
                raise EngineUnhealthy(
                    f"The process supervisor did not come up: see boot.log and supervisord.log in {self.folder}."
                )
            time.sleep(0.05)

    def key(self) -> str | None:
        """The API key the endpoint was started with, read from the supervisor's environment."""
        pid = self._pid()
        return psutil.Process(pid).environ().get(KEY) if pid else None

    def put(self, program: Program) -> ProgramState:
        """Adds a program and starts it; one of that name is stopped and replaced."""
        self.remove(program.name)
        programs.write(self.folder, program)
        self._call("reloadConfig")
        self._call("addProcessGroup", program.name)
        state = self.state(program.name)
        assert state is not None
        return state

    def remove(self, name: str) -> None:
        """Stops a program (SIGTERM, then its grace, then SIGKILL to its group) and forgets it."""
        if self.state(name):
            self._call("stopProcess", name, allowed=(Faults.NOT_RUNNING,))
            self._call("removeProcessGroup", name)
        programs.erase(self.folder, name)

    def restart(self, name: str) -> None:
        """Stops a program and starts it as its file now says."""
        self._call("stopProcess", name, allowed=(Faults.NOT_RUNNING,))
        self._call("startProcess", name)

    def state(self, name: str) -> ProgramState | None:
        """None when there is no such program."""
        return next((state for state in self.states() if state.name == name), None)

    def states(self) -> tuple[ProgramState, ...]:
        """Every program; none when no supervisor runs."""
        if not self.is_running():
            return ()
        found = self._call("getAllProcessInfo")
        return tuple(
            ProgramState(
                name=one["name"],
                state=one["statename"],
                pid=one["pid"],
                log=programs.log_file(self.folder, one["name"]),
            )
            for one in found
        )

    def shut_down(self) -> None:
        """Stops every program, then the supervisor itself, and waits for its end."""
        pid = self._pid()
        if pid is None:
            return
        process = psutil.Process(pid)
        for state in self.states():
            self.remove(state.name)
        self._call("shutdown")
        process.wait(timeout=60)

    def _lay_out(self) -> None:
        try:
            (self.folder / "programs").mkdir(parents=True, exist_ok=True)
            (self.folder / "logs").mkdir(exist_ok=True)
            conf = _CONF.format(socket=self._socket())
            write_atomically(self.folder / "supervisord.conf", conf.encode())
        except PermissionError as error:
            raise StoreNotWritable(
                f"{self.folder} cannot be written: fix its permissions or choose another --store."
            ) from error

    def _socket(self) -> Path:
        """In the store, or in a short private folder when the store's path is too long for a socket's."""
        beside = self.folder / "supervisord.sock"
        if len(os.fsencode(beside)) <= _SOCKET_LIMIT and not set(" %;#") & set(str(beside)):
            return beside
        runtime = Path("/tmp") / f"tunesmith-{os.getuid()}"
        runtime.mkdir(mode=0o700, exist_ok=True)
        if runtime.is_symlink() or runtime.stat().st_uid != os.getuid():
            raise ServeRefused(f"{runtime} belongs to somebody else: remove it, or choose a shorter --store path.")
        return runtime / f"{hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]}.sock"

    def _pid(self) -> int | None:
        try:
            return int(self._call("getPID"))
        except (OSError, xmlrpc.client.ProtocolError, http.client.HTTPException):
            return None

    def _call(self, method: str, *arguments: str, allowed: tuple[int, ...] = ()) -> Any:
        """One XML-RPC call on a connection of its own; a fault in `allowed` counts as done."""
        transport = SupervisorTransport(None, None, f"unix://{self._socket()}")
        try:
            return getattr(xmlrpc.client.ServerProxy("http://localhost", transport).supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode not in allowed:
                raise
            return None
        finally:
            transport.close()


@contextmanager
def only_one(store: Store, wait: bool = True) -> Iterator[None]:
    """Holds the store's endpoint: one at a time starts, switches or stops it. Raises ServeRefused when not to wait."""
    folder = store.root / "serve"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise ServeRefused(
                "A run is at work on this store's endpoint: cancel it or wait for its end, then run the same command."
            ) from error
        yield
