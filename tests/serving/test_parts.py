"""What needs no engine: the engine's command line, what its log says of its end, sockets and quoting."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.serving.releases import merged_model, serve_job
from tunesmith.errors import EngineUnhealthy, ServeRefused
from tunesmith.serving import endpoint
from tunesmith.serving.control import Supervisor
from tunesmith.serving.program import Program
from tunesmith.stages.serve.command import engine_program
from tunesmith.stages.serve.health import EngineLog
from tunesmith.stages.serve.heldout import held_out
from tunesmith.store import Store


@pytest.fixture(autouse=True)
def serve_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_PYTHON_SERVE", "/bin/true")


def test_engine_arguments_go_through_verbatim_and_win(store: Store) -> None:
    arguments = {"enforce_eager": False, "enable-prefix-caching": True, "max-num-seqs": 7, "dtype": "float16"}
    words = engine_program(serve_job(store, merged_model(store), engine_args=arguments), store, 4711).command
    assert "--no-enforce-eager" in words and "--enforce-eager" not in words
    assert "--enable-prefix-caching" in words
    assert words[words.index("--max-num-seqs") + 1] == "7"
    assert words[words.index("--dtype") + 1] == "float16" and words.count("--dtype") == 1
    assert words[words.index("--port") + 1] == "4711"


def test_a_gpu_gets_no_cpu_settings(store: Store) -> None:
    job = serve_job(store, merged_model(store)).model_copy(update={"device": "cuda"})
    program = engine_program(job, store, 4711)
    assert "--enforce-eager" not in program.command and "--dtype" not in program.command
    assert "VLLM_CPU_KVCACHE_SPACE" not in program.environment


@pytest.mark.parametrize("name", ["port", "api_key", "api-key", "served_model_name"])
def test_arguments_that_are_not_the_recipes_are_refused(store: Store, name: str) -> None:
    job = serve_job(store, merged_model(store), engine_args={name: "1"})
    with pytest.raises(ServeRefused, match=f"{name.replace('_', '-')} is set by Tunesmith"):
        engine_program(job, store, 4711)


def test_the_key_is_not_in_what_is_written_down(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "sesame")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    program = engine_program(serve_job(store, merged_model(store)), store, 4711)
    assert "sesame" not in program.model_dump_json()
    assert program.environment["VLLM_LOGGING_LEVEL"] == "WARNING"


LOGS = {
    "To serve at least one request with the model's max seq len (8192), (1.5 GiB KV cache is needed, which is larger "
    "than the available KV cache memory (1.0 GiB)": (ServeRefused, "raise serve.kv_cache_gib"),
    "Value error, User-specified max_model_len (9000) is greater than the derived max_model_len (max=2048)": (
        ServeRefused,
        "lower serve.max_model_len",
    ),
    "Free memory on device cuda:0 (3/24 GiB) on startup is less than desired GPU memory utilization (0.9, 21 GiB)": (
        ServeRefused,
        "gpu-memory-utilization",
    ),
    "torch.float32 is not supported for quantization method auto_gptq.": (ServeRefused, "set dtype"),
    "ValueError: the sky is down": (EngineUnhealthy, "the sky is down"),
}


@pytest.mark.parametrize(("line", "outcome"), LOGS.items())
def test_a_dead_engine_is_explained(tmp_path: Path, line: str, outcome: tuple[type[Exception], str]) -> None:
    path = tmp_path / "engine.log"
    path.write_text("ValueError: from an earlier start\n")
    log = EngineLog(path)
    with path.open("a") as file:
        file.write(f"Traceback (most recent call last):\n{line}\n  raise RuntimeError('x')\n")
        file.write("RuntimeError: Engine core initialization failed. See root cause above.\n")
    log.pass_on()
    explained = log.explain()
    assert type(explained) is outcome[0] and outcome[1] in explained.message


@pytest.mark.parametrize("folder", ["short", "a b %s ;x #y 'q'", "d" * 120])
def test_a_store_may_be_called_anything(tmp_path: Path, folder: str) -> None:
    store = Store(tmp_path / folder).open()
    supervisor = Supervisor(store)
    supervisor.start({"PATH": "/usr/bin:/bin"})
    try:
        script = "import os, time; print(os.environ['SAID'], flush=True); time.sleep(100)"
        program = Program(name="p", command=("python3", "-c", script), environment={"SAID": "50% ; # 'x'"})
        assert supervisor.put(program).is_up
        assert supervisor.state("p").is_up
        log = supervisor.state("p").log
        _until(lambda: log.exists() and log.read_text() == "50% ; # 'x'\n")
    finally:
        assert endpoint.stop(store) == ["p"]
    assert not supervisor.is_running()


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.05)


def test_what_a_dead_engine_leaves_is_ended_before_the_next(store: Store, tmp_path: Path) -> None:
    """An engine that is killed leaves its workers; the supervisor's next start of it must not run beside them."""
    script = (
        "import pathlib, subprocess, sys, time\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        f"pathlib.Path({str(tmp_path / 'workers')!r}).open('a').write(f'{{worker.pid}}\\n')\n"
        "time.sleep(100)\n"
    )
    workers = tmp_path / "workers"
    supervisor = Supervisor(store)
    supervisor.start({"PATH": "/usr/bin:/bin"})
    try:
        started = supervisor.put(Program(name="p", command=(sys.executable, "-c", script)))
        _until(lambda: workers.exists() and len(workers.read_text().split()) == 1)
        pid = supervisor.state("p").pid or started.pid
        psutil.Process(pid).kill()
        _until(lambda: len(workers.read_text().split()) == 2)
        first, second = map(int, workers.read_text().split())
        assert not _is_there(first) and _is_there(second)
    finally:
        endpoint.stop(store)
    assert not _is_there(second), "stopping ends the workers too"


def test_the_tuned_model_is_compared_on_the_rows_the_endpoint_is_asked(store: Store) -> None:
    job = serve_job(store, merged_model(store))
    assert held_out(job, store).tuned_score == 1.0, "without its answers, its score on all rows counts"
    marks = [{"row": 4, "correct": True}, {"row": 1, "correct": False}, {"row": 2, "correct": True}, {"row": 3, "correct": 1},
             {"row": 5, "correct": True}]  # fmt: skip
    (store.out(job.evaluation.scores["tuned"]) / "answers.jsonl").write_text("\n".join(map(json.dumps, marks)))
    rows, score = held_out(job, store)
    assert [row[-1]["content"] for row in rows] == ["1", "2", "3", "4"], (
        "four rows, in the file's order, row 0 was too long"
    )
    assert score == 0.75


def _is_there(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
