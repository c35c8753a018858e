"""What needs no engine: the engine's command line, what its log says of its end, sockets and quoting."""

import time
from pathlib import Path

import pytest

from tests.serving.releases import merged_model, serve_job
from tunesmith.errors import EngineUnhealthy, ServeRefused
from tunesmith.serving import endpoint
from tunesmith.serving.control import Supervisor
from tunesmith.serving.program import Program
from tunesmith.stages.serve.command import engine_program
from tunesmith.stages.serve.health import EngineLog
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
        _wait_for(supervisor.state("p").log, "50% ; # 'x'\n")
    finally:
        assert endpoint.stop(store) == ["p"]
    assert not supervisor.is_running()


def _wait_for(path: Path, text: str) -> None:
    for _ in range(200):
        if path.exists() and path.read_text() == text:
            return
        time.sleep(0.05)
    raise AssertionError(path.read_text())
