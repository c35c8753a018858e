"""A download in a process of its own, for tests that kill it: `python -m tests.hub.client ADDRESS CACHE CHANGES`.

CHANGES is JSON: what differs from this module's own patience, and `xet`. Prints the result's facts as JSON; an error of ours as its class and sentence, with its exit code.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.hub.faults import FaultyHub
from tunesmith.errors import TunesmithError
from tunesmith.hub.transfer.engine import fetch
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.sources.huggingface import HuggingFace

REPO = "acme/tiny"
CHECKOUT = Path(__file__).resolve().parents[2]


_PATIENCE = {"read_s": 2, "backoff_s": 0.05, "longest_backoff_s": 0.2, "owner_s": 1.5, "beat_s": 0.3}


def start(hub: FaultyHub, cache: Path, *, xet: bool = False, **patience: float) -> subprocess.Popen[str]:
    changes = json.dumps(patience | {"xet": xet})
    command = [sys.executable, "-m", "tests.hub.client", hub.address, str(cache), changes]
    return subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    """The facts of a download that ended well."""
    said, complaint = process.communicate(timeout=60)
    assert process.returncode == 0, said + complaint
    facts: dict[str, object] = json.loads(said)
    return facts


def refusal(process: subprocess.Popen[str]) -> str:
    """The class and the sentence that a download ended with."""
    said, complaint = process.communicate(timeout=60)
    assert process.returncode == 78 and said.count("\n") == 1, said + complaint
    return said.strip()


def until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Returns once something happened while the process still runs."""
    while not happened():
        assert process.poll() is None, "the download ended too early"
        time.sleep(0.002)


def main(address: str, cache: str, changes: str) -> int:
    wanted = _PATIENCE | json.loads(changes)
    xet = bool(wanted.pop("xet"))
    try:
        result = fetch([HuggingFace(address)], REPO, cache=Path(cache), patience=Patience(**wanted), xet=xet)
    except TunesmithError as error:
        print(type(error).__name__, error)
        return error.exit_code
    print(json.dumps(result.facts()))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
