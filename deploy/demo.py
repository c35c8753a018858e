"""The whole job on a small real model: what `make demo` runs. With --hub it serves the models alone.

The model comes from a loopback hub over the same requests as from the public one; only HF_ENDPOINT differs.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from openai import OpenAI, OpenAIError
from rich.console import Console
from rich.table import Table

from deploy.models import HUB, import_smollm2, mirror_qwen7b
from tunesmith.environments import CHECKOUT
from tunesmith.errors import HubUnavailable, StageCrashed
from tunesmith.foreign import translate
from tunesmith.runner import stop_tree
from tunesmith.store import Store
from tunesmith.worker import die_with_parent

STORE, HF_HOME = CHECKOUT / ".demo" / "store", CHECKOUT / ".demo" / "hf"
TUNESMITH = [sys.executable, "-m", "tunesmith.cli"]
HUB_SECONDS, ASK_SECONDS = 60, 120
_console = Console()


class StageRecord(TypedDict):
    """One row of a run's report."""

    name: str
    seconds: float
    cached: bool
    fingerprint: str
    room: str


class Report(TypedDict):
    """What `tunesmith run --json` ends with."""

    release: str
    endpoint: str
    stages: list[StageRecord]
    scores: dict[str, float]


def main() -> int:
    """0 when the endpoint has answered; otherwise the failure's exit code, with one sentence on stderr."""
    _stay_on_loopback()
    try:
        prepare()
        if sys.argv[1:] == ["--hub"]:
            return subprocess.run([*TUNESMITH, "hub", str(HUB)]).returncode
        with loopback_hub(HUB) as address:
            report = run_recipe(address)
        show(report)
        ask(report["endpoint"], questions(3))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        ours = translate(error)
        if ours is None:
            raise
        print(f"error: {ours.message}", file=sys.stderr)
        return ours.exit_code
    _console.print(f"\nThe endpoint stays up: point any OpenAI client at [bold]{report['endpoint']}[/].")
    _console.print("Again: [bold]make demo[/] (everything is found done). Stop it: [bold]make demo-stop[/].")
    return 0


def prepare() -> None:
    """Lays out the hub's folder; the small model is made once."""
    with _console.status("Making the small model out of its package (once, about a minute) …"):
        import_smollm2()
    mirror_qwen7b()


@contextmanager
def loopback_hub(folder: Path) -> Iterator[str]:
    """The address of a hub over `folder`, for as long as the block runs. Raises HubUnavailable."""
    command = [*TUNESMITH, "hub", str(folder), "--port", "0"]
    hub = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
    try:
        assert hub.stdout is not None
        _, _, address = hub.stdout.readline().strip().partition("HF_ENDPOINT=")
        if not address:
            raise HubUnavailable("The demo's hub ended at once: run `make hub` to see why.")
        _wait_for(address)
        yield address
    finally:
        stop_tree(hub.pid)
        hub.wait()


def run_recipe(hub: str) -> Report:
    """The report of the finished run; its log goes to this terminal. Raises what the run said, as one sentence."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(HF_HOME), "HF_HUB_OFFLINE": "0"}
    command = [*TUNESMITH, "run", "configs/smollm2.yaml", "--store", str(STORE), "--json"]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.strip().splitlines()
    if not lines:
        raise StageCrashed(f"The run ended with exit code {done.returncode} and no report: see its log above.")
    facts = json.loads(lines[-1])
    if done.returncode != 0:
        raise StageCrashed(f"The run failed: {facts.get('message', lines[-1])}")
    report: Report = facts
    return report


def show(report: Report) -> None:
    """Prints what each stage took, from the report and the manifests, and the scores."""
    table = Table("stage", "seconds", "cached", "peak memory, GiB", "room", title=report["release"])
    for stage in report["stages"]:
        cached = "yes" if stage["cached"] else ""
        table.add_row(stage["name"], f"{stage['seconds']:.1f}", cached, _peak_gib(stage), stage["room"])
    _console.print(table)
    scores = Table(*report["scores"], title="held-out score")
    scores.add_row(*(f"{score:.1%}" for score in report["scores"].values()))
    _console.print(scores)


def questions(count: int) -> list[str]:
    """The first held-out questions, spread over the file."""
    rows = (CHECKOUT / "configs" / "orders" / "heldout.jsonl").read_text().splitlines()
    chosen = rows[:: max(1, len(rows) // count)][:count]
    return [json.loads(row)["messages"][0]["content"] for row in chosen]


def ask(endpoint: str, asked: list[str]) -> None:
    """Puts each question to the endpoint as any user would, and prints the answers."""
    client = OpenAI(base_url=endpoint, api_key="none", timeout=ASK_SECONDS)
    try:
        model = client.models.list().data[0].id
        for question in asked:
            answer = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=64
            )
            _console.print(f"[bold]> {question}[/]\n  {answer.choices[0].message.content}", highlight=False)
    except OpenAIError as error:
        raise HubUnavailable(f"The endpoint {endpoint} did not answer the client ({error}).") from error


def _peak_gib(stage: StageRecord) -> str:
    """Of the stage's process; of the candidates' largest for `evaluate`, whose own room is the gate's."""
    store = Store(STORE)
    manifest = store.manifest(stage["room"])
    seen = [manifest] if manifest else []
    if manifest and stage["name"] == "evaluate":
        parents = [store.manifest(f"evaluate-{parent}") for parent in manifest.parents]
        seen = [parent for parent in parents if parent]
    return f"{max(one.peak_bytes_seen for one in seen) / 2**30:.2f}" if seen else ""


def _stay_on_loopback() -> None:
    """Keeps a proxy of the user's shell out of the talk between this machine and itself."""
    for key in ("no_proxy", "NO_PROXY"):
        os.environ[key] = ",".join(filter(None, (os.environ.get(key), "127.0.0.1", "localhost")))


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + HUB_SECONDS
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/", timeout=5)
        except urllib.error.HTTPError:
            return
        except (OSError, ValueError):
            time.sleep(0.2)
        else:
            return
    raise HubUnavailable(f"The demo's hub did not start within {HUB_SECONDS} s: run `make hub` to see why.")


if __name__ == "__main__":
    sys.exit(main())
