"""The backup of a real flow, in a process of its own: pushed without being waited for, and never the run's misfortune."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.finetune import finetune
from tests.backup.runs import past_run
from tests.fakes import run_flow
from tests.hub.upload_hub import TOKEN, Fault, UploadHub
from tunesmith.environments import CHECKOUT
from tunesmith.pipeline import STAGE_ORDER
from tunesmith.store import Store

RHYTHM = json.dumps({"look_s": 0.1, "backoff_s": 0.1, "longest_backoff_s": 0.2, "last_tries": 3})


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_BACKUP_RHYTHM", RHYTHM)


def run(recipe: Path, to: str = "hf:me/kept", **changes: Any) -> dict[str, Any]:
    return finetune(str(recipe), store=str(recipe.with_name("store")), overrides={"backup.to": to}, **changes)


def until(happened: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.05)
    return happened()


def events(recipe: Path) -> list[str]:
    path = recipe.with_name("store") / "backup/me--kept/events.jsonl"
    return [json.loads(line)["text"] for line in path.read_text().splitlines()] if path.exists() else []


def backups() -> list[psutil.Process]:
    """Those of this process."""
    return [one for one in psutil.Process().children(recursive=True) if "tunesmith.backup" in words_of(one)]


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.usefixtures("prefect", "orders")
def test_a_run_is_backed_up_to_the_last_part(recipe: Path, hub: UploadHub) -> None:
    facts = run(recipe)
    assert [stage["name"] for stage in facts["stages"]] == list(STAGE_ORDER)
    wanted = {"adapter/model.txt", "merged/model.txt", "quantized/model.txt", "README.md"}
    assert until(lambda: "me/kept" in hub.repos and wanted <= set(hub.repos["me/kept"].files))
    assert until(lambda: b"| served | 0.9500 |" in hub.repos["me/kept"].files["README.md"])
    assert until(lambda: not backups()), "the backup ends by itself"
    assert any("adapter" in note for note in events(recipe))


@pytest.mark.usefixtures("prefect", "orders")
def test_a_hub_that_is_away_fails_no_run(recipe: Path, hub: UploadHub) -> None:
    hub.__exit__()
    facts = run(recipe)
    assert [stage["name"] for stage in facts["stages"]] == list(STAGE_ORDER)
    assert until(lambda: any("pushes the rest" in note for note in events(recipe)))


@pytest.mark.usefixtures("prefect")
def test_a_run_that_fails_leaves_what_it_made_on_the_hub(recipe: Path, hub: UploadHub, orders: Path) -> None:
    orders.write_text(json.dumps({"merge": {"fail": "DataError", "times": 9}}))
    with pytest.raises(Exception, match="it was asked to fail"):
        run(recipe)
    assert until(lambda: "me/kept" in hub.repos and "adapter/model.txt" in hub.repos["me/kept"].files)


@pytest.mark.usefixtures("prefect", "orders")
def test_a_missing_token_is_said_once(
    recipe: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    facts = run(recipe)
    assert len(facts["stages"]) == len(STAGE_ORDER)
    assert sum("set HF_TOKEN to a token that may write" in one.getMessage() for one in caplog.records) == 1
    assert hub.log == []


def test_a_run_that_is_killed_takes_its_backup_along(recipe: Path, hub: UploadHub, orders: Path) -> None:
    orders.write_text(json.dumps({"merge": {"sleep": 120}}))
    hub.faults.append(Fault("create", 503, times=10_000))
    request = {"recipe": str(recipe), "store": str(recipe.with_name("store")), "overrides": {"backup.to": "hf:me/kept"}}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**kept, "PREFECT_HOME": str(recipe.with_name("prefect")), "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, run_flow.__file__, json.dumps(request)]
    flow = subprocess.Popen(command, cwd=CHECKOUT, env=environment)
    assert until(lambda: bool(hub.log), 120)
    backup = backups()
    rest = psutil.Process(flow.pid).children(recursive=True)
    flow.kill()
    flow.wait()
    gone, alive = psutil.wait_procs(backup, timeout=30)
    # Prefect's own server outlives the flow that started it.
    for process in psutil.wait_procs(rest, timeout=5)[1]:
        process.kill()
    assert gone and not alive


def test_the_command_pushes_what_is_there_and_says_so(store: Store, recipe: Path, hub: UploadHub) -> None:
    past = past_run(store, recipe)
    past.make("train")
    past.checkpoint(10)
    command = [sys.executable, "-m", "tunesmith.cli", "backup", str(recipe), "--store", str(store.root)]
    command += ["--set", "backup.to=hf:me/kept"]
    first, second = (subprocess.run([*command, "--json"], capture_output=True, text=True) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert [part["part"] for part in json.loads(first.stdout)["parts"]] == ["adapter", "checkpoint", "README.md"]
    assert json.loads(first.stdout)["bytes"] > 0 == json.loads(second.stdout)["bytes"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert "adapter (train-" in told.stdout and "nothing to send" in told.stdout


@pytest.mark.parametrize(
    ("settings", "token", "sentence"),
    [
        ([], TOKEN, "names no backup: set backup.to"),
        (["backup.to=hf:me/kept"], "", "set HF_TOKEN to a token that may write"),
        (["backup.to=me/kept"], TOKEN, "write hf:owner/name, modelscope:owner/name, or https://host/owner/name"),
        (["backup.to=hf:me/kept", "backup.every=0"], TOKEN, "give minutes above 0, or the word checkpoint"),
    ],
    ids=["none", "token", "place", "minutes"],
)
def test_a_mistake_is_one_sentence(recipe: Path, hub: UploadHub, settings, token: str, sentence: str) -> None:
    words = [word for setting in settings for word in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "tunesmith.cli",
        "backup",
        str(recipe),
        "--store",
        str(recipe.parent / "s"),
        *words,
    ]
    environment = {**os.environ, "HF_TOKEN": token, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 78, done.stdout + done.stderr
    assert sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_backup_changes_no_fingerprint(store: Store, recipe: Path) -> None:
    plain = past_run(store, recipe, "hf:me/kept")
    other = past_run(store, recipe, "modelscope:you/there", every=5, what=["adapter"])
    assert plain.rooms == other.rooms
