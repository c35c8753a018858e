"""The command as a user meets it: a process, its exit code, its output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.gguf_files import tiny_ggufs
from tests.recipes import tiny_recipe


def tunesmith(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tunesmith.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200", **environment})


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tiny_recipe(tmp_path)


def test_plan_lays_out_every_job_and_runs_none(recipe: Path, tmp_path: Path) -> None:
    done = tunesmith("plan", str(recipe), "--store", str(tmp_path / "store"), "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    stages = ["download", "train", "merge", "quantize"]
    assert [job["stage"] for job in facts["jobs"]] == [
        *stages, "evaluate/base", "evaluate/tuned", "evaluate/merged", "evaluate/quantized", "serve",
    ]  # fmt: skip
    assert not any(job["done"] for job in facts["jobs"])
    assert all(job["room"].endswith(job["fingerprint"]) for job in facts["jobs"])
    assert facts["estimate"]["fits"]
    assert not list((tmp_path / "store").glob("train-*"))


def test_estimate_shows_the_bill_and_says_whether_it_fits_by_its_exit_code(recipe: Path, tmp_path: Path) -> None:
    fits = tunesmith("estimate", str(recipe), "--json")
    assert fits.returncode == 0
    facts = json.loads(fits.stdout)
    assert facts["peak"]["high_gib"] <= facts["peak"]["budget_gib"]
    assert {item["phase"] for item in facts["bill"]} >= {"load", "train", "evaluate", "merge", "quantize", "serve"}

    refused = tunesmith("estimate", str(recipe), "--set", "hardware.memory_gib=0.1", "--json")
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["fits"] is False
    assert "GiB" in json.loads(refused.stdout)["message"]
    table = tunesmith("estimate", str(recipe))
    assert "logits and loss" in table.stdout


@pytest.mark.env("train")
def test_a_gguf_is_estimated_and_planned_with_its_conversion(recipe: Path, tmp_path: Path) -> None:
    file = tiny_ggufs(tmp_path / "packed", "llama:Q4_0") / "llama-Q4_0.gguf"
    settings = ["--set", f"model.path={file.parent}", "--set", f"model.gguf={file.name}"]
    for words in (["estimate", str(file)], ["estimate", str(recipe), *settings]):
        done = tunesmith(*words, "--set", "train.method=lora", "--gpu-memory", "8", "--json")
        assert done.returncode == 0, done.stderr
        assert "convert" in {item["phase"] for item in json.loads(done.stdout)["bill"]}
    done = tunesmith("plan", str(recipe), *settings, "--store", str(tmp_path / "store"), "--json")
    facts = json.loads(done.stdout)
    assert [job["stage"] for job in facts["jobs"]][:3] == ["download", "download/convert", "train"]
    assert facts["model"]["bytes"] == file.stat().st_size
    refused = tunesmith("estimate", str(file.parent))
    assert refused.returncode == 78
    assert "holds its weights only as GGUF: set model.gguf to the file to start from" in refused.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["plan", "{recipe}", "--set", "train.rnk=4"], "train.rnk: unknown key; did you mean rank?"),
        (["estimate", "nothing"], "There is no recipe nothing: known recipes: qwen7b, smollm2."),
        (["plan", "{recipe}", "--set", "train.epochs"], "write it as key=value"),
        (["plan", "{recipe}", "--set", "data.train=gone.jsonl"], "gone.jsonl"),
        (["plan", "{recipe}", "--set", "quantize.group_size=128"], "128 does not divide"),
        (["run", "{recipe}", "--until", "tarin"], "there is no such stage; the stages are resolve, estimate"),
        (["plan", "{recipe}", "--store", "/dev/null/store"], "choose another --store"),
    ],
    ids=["key", "recipe", "setting", "data", "group", "until", "store"],
)
def test_a_mistake_is_one_sentence_and_exit_code_78(
    recipe: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    if "--store" not in words and "estimate" not in words:
        words = [*words, "--store", str(tmp_path / "store")]
    done = tunesmith(*(word.format(recipe=recipe) for word in words))
    assert done.returncode == 78, done.stdout + done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_model_folder_without_weights_is_refused(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "model" / "model.safetensors").unlink()
    done = tunesmith("plan", str(recipe), "--store", str(tmp_path / "store"))
    assert done.returncode == 78
    assert "safetensors" in done.stderr


def test_facts_need_neither_prefect_nor_torch(recipe: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom tunesmith.cli import app\n"
        "try: app(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print([m for m in ('prefect', 'torch') if m in sys.modules], file=sys.stderr)"
    )
    for words in (["plan", str(recipe)], ["estimate", str(recipe)], ["doctor"], ["status"]):
        store = [] if "estimate" in words else ["--store", str(tmp_path / "store")]
        command = [sys.executable, "-c", code, *words, *store, "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stderr.strip() == "[]", done.stderr
        json.loads(done.stdout)


def test_stop_and_status_where_nothing_is_served(tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "store"), "--json")
    assert json.loads(tunesmith("stop", *store).stdout) == {"stopped": []}
    assert json.loads(tunesmith("status", *store).stdout)["served"] is None


def test_run_reports_what_it_did_on_its_last_line(recipe: Path, tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "store"))
    done = tunesmith(
        "run", str(recipe), *store, "--until", "download", "--json", PREFECT_HOME=str(tmp_path / "prefect")
    )
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads(done.stdout.splitlines()[-1])
    assert [stage["name"] for stage in facts["stages"]] == ["resolve", "estimate", "download"]
    assert set(facts["stages"][0]) == {"name", "seconds", "cached", "fingerprint", "room"}
    assert set(facts) == {"release", "endpoint", "stages", "scores"}


def test_a_run_that_fails_says_why_without_a_trace(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "hello"}]}) + "\n")
    store = ("--store", str(tmp_path / "store"))
    done = tunesmith("run", str(recipe), *store, "--json", PREFECT_HOME=str(tmp_path / "prefect"))
    assert done.returncode == 78
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["error"] == "DataError"
    assert "train.jsonl" in facts["message"]
    assert "Traceback" not in done.stderr


def test_a_recipe_is_found_by_name_from_anywhere(tmp_path: Path) -> None:
    other = tmp_path / "configs"
    other.mkdir()
    (other / "mine.yaml").write_text(yaml.safe_dump({"name": "mine"}))
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith.cli", "plan", "mine"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 78
    assert "mine.yaml: model: Field required" in done.stderr
