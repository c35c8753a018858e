"""Job in, manifest out: the real runner and the real worker around a verb that does no work."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.hearing import Heard
from tests.rooms import chat, cpu_plan, finished_dataset
from tunesmith import runner
from tunesmith.artifacts import ModelSnapshot, ModelSource, Resolved
from tunesmith.errors import CorruptArtifact, DiskFull, EnvironmentMissing, OutOfMemory, StageCrashed, StoreNotWritable
from tunesmith.jobs import DownloadJob, TrainJob
from tunesmith.pipeline import train_job
from tunesmith.specs.load import load_recipe
from tunesmith.store import Store
from tunesmith.worker import LOG

JOB = DownloadJob(source=ModelSource(repo="a/b", commit="0" * 40, files=(), config={}))


def starts(orders: Path) -> int:
    path = orders.with_name("starts.txt")
    return len(path.read_text().split()) if path.exists() else 0


def test_a_job_runs_once_and_is_found_again(store: Store, orders: Path) -> None:
    heard = Heard()
    first = runner.run(JOB, store, heard)
    second = runner.run(JOB, store)
    assert (first.cached, second.cached) == (False, True)
    assert first.artifact == second.artifact
    assert starts(orders) == 1
    assert heard.lines == ["pretending to download"]
    assert [event["event"] for event in heard.events] == ["progress"]
    assert (store.room(first.room) / LOG).read_text() == "pretending to download\n"


def test_the_manifest_explains_the_artifact(store: Store, orders: Path) -> None:
    outcome = runner.run(JOB, store)
    manifest = store.manifest(outcome.room)
    assert manifest is not None
    assert manifest.stage == "download"
    assert [(f.path, f.size) for f in manifest.files] == [("model.txt", len("download"))]
    assert manifest.metrics == {"pretended": 1.0}
    assert manifest.peak_bytes_seen > 10 * 2**20
    assert not (store.room(outcome.room) / "scratch").exists()


def test_moving_the_store_changes_nothing(store: Store, orders: Path) -> None:
    outcome = runner.run(JOB, store)
    moved = Store(store.root.rename(store.root.with_name("moved")))
    again = runner.run(JOB, moved)
    assert again.cached
    assert again.artifact.fingerprint == outcome.artifact.fingerprint
    moved.verify(again.artifact)


def test_a_room_that_lost_a_file_is_made_again(store: Store, orders: Path) -> None:
    outcome = runner.run(JOB, store)
    (store.out(outcome.artifact) / "model.txt").unlink()
    assert not runner.run(JOB, store).cached
    assert starts(orders) == 2


@pytest.mark.parametrize(("name", "kind"), [("OutOfMemory", OutOfMemory), ("DiskFull", DiskFull)])
def test_an_error_keeps_its_class_and_sentence(store: Store, orders: Path, name: str, kind: type[Exception]) -> None:
    orders.write_text(json.dumps({"download": {"fail": name, "times": 1}}))
    with pytest.raises(kind, match=r"^it was asked to fail\.$"):
        runner.run(JOB, store)
    assert "Traceback" not in (store.room(JOB.room_name) / LOG).read_text()
    assert not runner.run(JOB, store).cached, "the second try does the work, in the same room"


def test_an_altered_input_is_named(store: Store, orders: Path) -> None:
    snapshot = runner.run(JOB, store).artifact
    (store.out(snapshot) / "model.txt").write_text("DOWNLOAD")
    with pytest.raises(CorruptArtifact, match=r"model\.txt has been altered in download-"):
        runner.run(_train_of(snapshot, store), store)


def test_a_crash_says_where_to_look(store: Store, orders: Path) -> None:
    orders.write_text("{ not json")
    with pytest.raises(StageCrashed, match=r"download crashed \(JSONDecodeError.*stage\.log"):
        runner.run(JOB, store)
    assert "Traceback" in (store.room(JOB.room_name) / LOG).read_text()


def test_a_killed_stage_says_so_and_the_next_run_finishes(store: Store, orders: Path) -> None:
    orders.write_text(json.dumps({"download": {"sleep": 60}}))
    killer = threading.Thread(target=_kill_child_when_started, args=(orders,))
    killer.start()
    with pytest.raises(StageCrashed, match=r"killed by signal 9 \(signal 9 is often the kernel, out of memory\)"):
        runner.run(JOB, store)
    killer.join()
    orders.write_text("{}")
    assert not runner.run(JOB, store).cached


def test_a_stage_dies_with_the_run_that_started_it(tmp_path: Path, orders: Path) -> None:
    orders.write_text(json.dumps({"download": {"sleep": 60}}))
    code = (
        "from tests.test_runner import *; from tests.fakes.run_flow import replace_far_side; replace_far_side(); "
        f"runner.run(JOB, Store(Path({str(tmp_path / 'store')!r})))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    children = _wait_for(lambda: starts(orders) and psutil.Process(parent.pid).children(recursive=True))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_two_runs_of_one_job_do_the_work_once(store: Store, orders: Path) -> None:
    orders.write_text(json.dumps({"download": {"sleep": 1}}))
    outcomes: list[runner.Outcome] = []
    threads = [threading.Thread(target=lambda: outcomes.append(runner.run(JOB, store))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes[0].artifact == outcomes[1].artifact
    assert starts(orders) == 1


def test_a_missing_environment_names_the_command(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    snapshot = ModelSnapshot(fingerprint="f" * 16, repo="a/b", commit="0")
    with pytest.raises(EnvironmentMissing, match=r"The environment train is not built: run `make env-train`"):
        runner.run(_train_of(snapshot, store), store)


def test_a_store_that_cannot_be_made_says_so(tmp_path: Path, orders: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreNotWritable, match="choose another --store"):
        runner.run(JOB, Store(tmp_path / "file" / "store"))


def test_the_child_sees_only_what_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:2")
    passed = runner.stage_environment({"KEY": "k"})
    assert "AWS_SECRET_ACCESS_KEY" not in passed
    assert "PYTHONPATH" not in passed
    assert passed["HF_ENDPOINT"] == "http://127.0.0.1:1"
    assert passed["KEY"] == "k" and passed["ALL_PROXY"] == "http://127.0.0.1:2"


def _train_of(snapshot: Any, store: Store) -> TrainJob:
    data = finished_dataset(store, [chat("q", "a")], [chat("q", "a")])
    resolved = Resolved(fingerprint="r" * 16, model=JOB.source, data=data)
    return train_job(load_recipe("smollm2"), resolved, cpu_plan(store), snapshot)


def _kill_child_when_started(orders: Path) -> None:
    _wait_for(lambda: starts(orders))
    for child in psutil.Process().children(recursive=True):
        child.kill()


def _wait_for(condition: Any) -> Any:
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return value
