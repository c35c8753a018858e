"""What the benchmarks share: the loopback hub of the demonstration, and runs of the real command."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

from deploy import demo  # noqa: E402


@contextmanager
def demonstration(folder: Path) -> Iterator[dict[str, str]]:
    """An environment in which HF_ENDPOINT is the loopback hub and the Hugging Face cache starts empty."""
    demo.prepare()
    with demo.loopback_hub(demo.HUB) as url:
        yield {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(folder / "hf")}


def tunesmith(environment: dict[str, str], store: Path, *words: str) -> dict[str, Any]:
    """The facts of one `tunesmith run … --json`; its log goes to stderr."""
    command = [str(Path(sys.executable).parent / "tunesmith"), "run", *words, "--store", str(store), "--json"]
    done = subprocess.run(command, env=environment, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if done.returncode:
        sys.exit(f"tunesmith run ended with {done.returncode}: {facts.get('message')}")
    return facts


def machine() -> str:
    """One line that names the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    ram = psutil.virtual_memory().total / 2**30
    return f"{model}, {psutil.cpu_count()} cores, {ram:.0f} GiB, Python {platform.python_version()}"
