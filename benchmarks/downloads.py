"""What the download benchmarks share: each client as a process of its own, timed inside, with CPU seconds and memory.

`python benchmarks/downloads.py CLIENT ADDRESS CACHE` is one such client: `tunesmith` or `huggingface_hub`.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from tests.hub.apart import REPO  # noqa: E402
from tests.hub.repo import Repo  # noqa: E402

OURS, THEIRS, ARIA = "tunesmith", "huggingface_hub", "aria2c"
CONNECTIONS = 8


class Run(NamedTuple):
    """One download by one client."""

    seconds: float
    """Of the download itself, without the interpreter's start."""
    cpu_seconds: float
    """Of the whole process, user and system."""
    peak_bytes: int
    """Largest resident set."""


def run(client: str, address: str, cache: Path) -> Run:
    """One download of acme/tiny, into a cache of its own."""
    command = aria2c(address, cache) if client.startswith("aria2c") else python(client, address, cache)
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment())
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{client} ended with {process.returncode}")
    seconds = time.monotonic() - began if client.startswith("aria2c") else json.loads(said)["seconds"]
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10)


def environment() -> dict[str, str]:
    """No progress bars, no telemetry, no token."""
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    return {**{name: value for name, value in os.environ.items() if name != "HF_TOKEN"}, **quiet}


def start(client: str, address: str, cache: Path) -> subprocess.Popen[bytes]:
    """The same, without waiting for it."""
    return subprocess.Popen(python(client, address, cache), stdout=subprocess.DEVNULL, env=environment())


def python(client: str, address: str, cache: Path) -> list[str]:
    return [sys.executable, __file__, client, address, str(cache)]


def aria2c(address: str, cache: Path) -> list[str]:
    """The weights alone, over as many connections."""
    place = f"{address}/{REPO}/resolve/main/model.safetensors"
    parts = [f"-x{CONNECTIONS}", f"-s{CONNECTIONS}", "-k1M", "--file-allocation=none"]
    return ["aria2c", "--no-conf", "-q", *parts, "-d", str(cache), "-o", "model.safetensors", place]


def is_right(repo: Repo, cache: Path) -> bool:
    """Whether every file of the repo is there with its content; aria2c brings the weights alone."""
    folder = next(iter(cache.glob("*/snapshots/*")), cache)
    places = {path: folder / path for path in repo.files if (folder / path).is_file()}
    if len(places) not in (1, len(repo.files)):
        return False
    return all(digest(place) == repo.files[path].sha256 for path, place in places.items())


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk(folder: Path | None) -> str:
    """The file system the caches lie on."""
    place = str((folder or Path(tempfile.gettempdir())).resolve())
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return max((mount for mount in mounts if place.startswith(mount[1])), key=lambda mount: len(mount[1]))[2]


@contextmanager
def empty_cache(below: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="download-", dir=below) as folder:
        yield Path(folder)


def versions() -> str:
    """The other clients, as installed."""
    from importlib.metadata import version

    try:
        first = subprocess.run(["aria2c", "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    except FileNotFoundError:
        first = "no aria2c"
    return f"huggingface_hub {version('huggingface_hub')}, {first}, Linux {platform.release().split('-')[0]}"


def download(client: str, address: str, cache: Path) -> dict[str, Any]:
    """The download itself, in this process."""
    if client == "huggingface_hub":
        from huggingface_hub import snapshot_download

        began = time.monotonic()
        snapshot_download(REPO, endpoint=address, cache_dir=cache, max_workers=8)
        return {"seconds": time.monotonic() - began}
    from tunesmith.hub.transfer.engine import fetch
    from tunesmith.hub.transfer.sources.huggingface import HuggingFace

    began = time.monotonic()
    result = fetch([HuggingFace(address)], REPO, "main", cache=cache, connections=CONNECTIONS)
    return result.facts() | {"seconds": time.monotonic() - began}


if __name__ == "__main__":
    print(json.dumps(download(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
