"""Real processes: a loopback hub, a Prefect server, a worker. Everything is started here and ended here, by pid."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from deploy import demo
from tunesmith.environments import CHECKOUT
from tunesmith.runner import stop_tree

BIN = Path(sys.executable).parent


class Box(NamedTuple):
    """One machine as a user would have it set up: server, pool, deployments and worker running."""

    environment: dict[str, str]
    store: Path
    hf_home: Path
    port: int

    def prefect(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [str(BIN / "prefect"), *words], cwd=CHECKOUT, env=self.environment, capture_output=True, text=True
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def tunesmith(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [str(BIN / "tunesmith"), *words]
        return subprocess.run(command, cwd=CHECKOUT, env=self.environment, capture_output=True, text=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def hub_url() -> Iterator[str]:
    """The product's own hub over the real small model, and Qwen2.5-7B as metadata alone."""
    demo.prepare()
    with demo.loopback_hub(demo.HUB) as url:
        yield url


@pytest.fixture(scope="session")
def box(hub_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    home = tmp_path_factory.mktemp("box")
    api = free_port()
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub_url,
        "HF_HOME": str(home / "hf"),
        "TUNESMITH_STORE": str(home / "store"),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{api}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    box = Box(environment, home / "store", home / "hf", free_port())
    server = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(api), "--no-ui"]
    with (home / "server.log").open("w") as log:
        processes = [subprocess.Popen(server, env=environment, stdout=log, stderr=log)]
    try:
        _answering(f"http://127.0.0.1:{api}", "/api/health")
        box.prefect("work-pool", "create", "gpu", "--type", "process")
        box.prefect("work-pool", "set-concurrency-limit", "gpu", "1")
        box.prefect("--no-prompt", "deploy", "--all", "--prefect-file", "deploy/prefect.yaml")
        worker = [str(BIN / "prefect"), "worker", "start", "--pool", "gpu"]
        with (home / "worker.log").open("w") as log:
            processes.append(subprocess.Popen(worker, cwd=CHECKOUT, env=environment, stdout=log, stderr=log))
        yield box
    finally:
        box.tunesmith("stop", "--store", str(box.store))
        for process in reversed(processes):
            stop_tree(process.pid)


def _answering(url: str, path: str) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if httpx.get(url + path).is_success:
                return url
        except httpx.TransportError:
            time.sleep(0.3)
    raise AssertionError(f"{url}{path} never answered")
