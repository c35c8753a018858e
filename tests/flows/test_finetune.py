"""The flow: order, caching, retries, the gate, `until`, kill and resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.finetune import finetune
from flows.retrain import retrain
from tests.fakes import run_flow
from tunesmith.environments import CHECKOUT
from tunesmith.errors import DataError, GateFailed, RecipeError
from tunesmith.ledger import entries
from tunesmith.pipeline import STAGE_ORDER
from tunesmith.store import Store

pytestmark = pytest.mark.usefixtures("prefect")


def started(orders: Path) -> list[str]:
    path = orders.with_name("starts.txt")
    return path.read_text().split() if path.exists() else []


def run(recipe: Path, **changes: Any) -> dict[str, Any]:
    return finetune(str(recipe), store=str(recipe.with_name("store")), **changes)


def test_the_stages_run_in_order_and_the_second_run_finds_them_done(recipe: Path, orders: Path) -> None:
    first = run(recipe)
    assert [stage["name"] for stage in first["stages"]] == list(STAGE_ORDER)
    assert started(orders) == ["download", "train", "merge", "quantize.gptq", *["evaluate"] * 4, "serve.vllm"]
    assert not any(stage["cached"] for stage in first["stages"])
    assert first["scores"] == {"base": 0.0, "tuned": 0.95, "merged": 0.95, "quantized": 0.95, "served": 0.95}
    assert first["endpoint"] == "http://127.0.0.1:1/v1"

    second = run(recipe)
    assert all(stage["cached"] for stage in second["stages"] if stage["name"] != "serve")
    assert [s["fingerprint"] for s in second["stages"]] == [s["fingerprint"] for s in first["stages"]]
    assert started(orders)[9:] == ["serve.vllm"], "a release that does not answer is served again; nothing else runs"
    noted = [entry.phase for entry in entries(Store(recipe.with_name("store")))]
    assert noted == ["train", "merge", "quantize", *["evaluate"] * 4]


def test_a_change_redoes_what_follows_from_it_only(recipe: Path, orders: Path) -> None:
    run(recipe, until="evaluate")
    before = len(started(orders))
    run(recipe, until="evaluate", overrides={"quantize.group_size": 32})
    assert started(orders)[before:] == ["quantize.gptq", "evaluate"]


def test_until_stops_after_its_stage(recipe: Path, orders: Path) -> None:
    facts = run(recipe, until="merge")
    assert [stage["name"] for stage in facts["stages"]] == ["resolve", "estimate", "download", "train", "merge"]
    assert facts["release"] is None


def test_a_run_warns_of_gpus_that_it_will_not_use(recipe: Path, orders: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(recipe, until="estimate", overrides={"hardware.gpus": 4})
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "estimate: of 4 GPUs asked for, none is used: a run starts one process on one GPU" in warnings
    run(recipe, until="estimate")
    assert caplog.text.count("a run starts one process") == 1


def test_what_may_pass_later_is_tried_again(recipe: Path, orders: Path) -> None:
    orders.write_text(json.dumps({"download": {"fail": "HubUnavailable", "times": 1}}))
    run(recipe, until="download")
    assert started(orders) == ["download", "download"]


def test_what_cannot_pass_is_not(recipe: Path, orders: Path, caplog: pytest.LogCaptureFixture) -> None:
    orders.write_text(json.dumps({"train": {"fail": "DataError", "times": 9}}))
    with pytest.raises(DataError, match="it was asked to fail"):
        run(recipe)
    assert started(orders) == ["download", "train"]
    assert "Traceback" not in caplog.text


def test_a_failed_gate_stops_before_serving_and_says_by_how_much(recipe: Path, orders: Path) -> None:
    orders.write_text(json.dumps({"evaluate": {"scores": {"adapter": 0.5, "merged": 0.5, "quantized": 0.5}}}))
    with pytest.raises(GateFailed, match=r"0\.5.*0\.9.*0\.4"):
        run(recipe)
    assert "serve.vllm" not in started(orders)


def test_a_recipe_without_a_quantizer_serves_the_merged_model(recipe: Path, orders: Path) -> None:
    facts = run(recipe, overrides={"quantize": {"method": "none"}})
    assert "quantize.gptq" not in started(orders)
    assert set(facts["scores"]) == {"base", "tuned", "merged", "served"}


def test_a_mistake_in_the_recipe_fails_before_anything_is_made(recipe: Path, orders: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean rank"):
        run(recipe, overrides={"train.rnk": 1})
    assert not recipe.with_name("store").exists()


def test_retraining_on_new_rows_makes_a_new_adapter_from_the_same_base(recipe: Path, orders: Path) -> None:
    run(recipe, until="train")
    rows = recipe.with_name("train.jsonl")
    rows.write_text(rows.read_text() + rows.read_text().replace("train 0", "train more"))
    facts = retrain(str(recipe), store=str(recipe.with_name("store")))
    cached = {stage["name"]: stage["cached"] for stage in facts["stages"]}
    assert cached["download"]
    assert not cached["train"]


@pytest.mark.parametrize("stage", ["download", "train", "quantize.gptq", "serve.vllm"])
def test_killed_in_a_stage_the_same_command_finishes(recipe: Path, orders: Path, stage: str) -> None:
    orders.write_text(json.dumps({stage: {"sleep": 120}}))
    request = json.dumps({"recipe": str(recipe), "store": str(recipe.with_name("store"))})
    process = subprocess.Popen([sys.executable, run_flow.__file__, request], cwd=CHECKOUT, start_new_session=True)
    deadline = time.monotonic() + 120
    while stage not in started(orders) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = started(orders)[:-1]

    orders.write_text("{}")
    facts = run(recipe)
    assert [s["name"] for s in facts["stages"]] == list(STAGE_ORDER)
    assert not set(started(orders)[len(done) + 1 :]) & set(done) - {"evaluate"}, "a finished stage was redone"


def test_a_run_whose_terminal_is_killed_leaves_no_process_behind(recipe: Path, orders: Path, tmp_path: Path) -> None:
    orders.write_text(json.dumps({"download": {"sleep": 120}}))
    request = json.dumps({"recipe": str(recipe), "store": str(recipe.with_name("store"))})
    code = f"import subprocess, sys; subprocess.run([sys.executable, {run_flow.__file__!r}, {request!r}])"
    # Without PREFECT_API_URL the run starts a temporary server of its own.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**kept, "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(CHECKOUT)}
    terminal = subprocess.Popen([sys.executable, "-c", code], cwd=CHECKOUT, env=environment)
    deadline = time.monotonic() + 120
    while "download" not in started(orders) and time.monotonic() < deadline:
        time.sleep(0.1)
    processes = psutil.Process(terminal.pid).children(recursive=True)
    assert len(processes) >= 3, "the flow, its server and its stage"
    terminal.kill()
    terminal.wait()
    _, alive = psutil.wait_procs(processes, timeout=60)
    for process in alive:
        process.kill()
    assert not alive
