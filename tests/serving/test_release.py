"""A release from its first start to its end, with the real runner, supervisor and router."""

import json
import subprocess
import sys
import threading
import time

import httpx
import openai
import psutil
import pytest

from tests.serving.conftest import processes_of
from tests.serving.releases import RIGHT, ROWS, merged_model, serve_job
from tunesmith.artifacts import Release
from tunesmith.errors import EngineUnhealthy, GateFailed, PortBusy, ServeRefused
from tunesmith.jobs import ServeJob
from tunesmith.runner import run
from tunesmith.serving import endpoint
from tunesmith.serving.control import Supervisor, only_one
from tunesmith.store import Store

pytestmark = pytest.mark.env("serve")


def put_up(job: ServeJob, store: Store, **secrets: str) -> Release:
    """What the serve task does."""
    endpoint.forget_if_dead(job, store)
    release = run(job, store, secrets=secrets).artifact
    assert isinstance(release, Release)
    return release


def engine_pid(job: ServeJob, store: Store) -> int:
    state = Supervisor(store).state(endpoint.engine_name(job.fingerprint))
    return state.pid if state else 0


def answer(release: Release, question: str, key: str = "none") -> str | None:
    client = openai.OpenAI(base_url=release.endpoint, api_key=key, max_retries=0)
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model=release.served_name, messages=messages).choices[0].message.content


def test_a_release_answers_is_adopted_and_stops_cleanly(served: Store) -> None:
    job = serve_job(served, merged_model(served))
    release = put_up(job, served)
    assert (release.served_name, release.score) == ("orders", 1.0)
    assert release.answers == ((ROWS[0]["messages"][0]["content"], "0"),)
    assert [answer(release, question) for question in RIGHT] == list(RIGHT.values())
    status = endpoint.status(served)
    assert status and status.trouble is None and status.served.release == release

    pid = engine_pid(job, served)
    assert run(job, served).cached, "the release is alive, so there is nothing to do"
    (served.room(job.room_name) / "manifest.json").unlink()
    assert put_up(job, served) == release
    assert engine_pid(job, served) == pid, "an engine that is up is adopted, not started again"

    assert endpoint.stop(served) == [endpoint.engine_name(job.fingerprint), "router"]
    assert not processes_of(served) and not psutil.pid_exists(pid)
    assert endpoint.stop(served) == []
    assert endpoint.current(served) is None
    put_up(job, served)
    assert answer(release, "How many are 3 lamps?") == "3", (
        "a stopped release is put up again, not taken from the store"
    )


def test_a_swap_under_load_loses_no_stream(served: Store) -> None:
    old = serve_job(served, merged_model(served, tokens=20))
    release = put_up(old, served)
    new = serve_job(served, merged_model(served, tokens=10), port=old.spec.port)
    lengths: list[int] = []
    done = threading.Event()
    clients = [threading.Thread(target=_stream_until, args=(release, done, lengths)) for _ in range(6)]
    for client in clients:
        client.start()
    time.sleep(0.5)
    put_up(new, served)
    time.sleep(0.5)
    done.set()
    for client in clients:
        client.join()
    assert set(lengths) == {10, 20}, "every stream was whole, some from each release"
    assert engine_pid(old, served) == 0
    endpoint.forget_if_dead(old, served)
    assert served.manifest(old.room_name) is None, "the replaced release is not what answers"
    assert served.manifest(new.room_name)


def _stream_until(release: Release, done: threading.Event, lengths: list[int]) -> None:
    """Streams answers one after the other, noting each one's number of pieces; -1 for one that broke."""
    body = {"model": "orders", "stream": True, "messages": [{"role": "user", "content": "count"}]}
    while not done.is_set():
        try:
            with httpx.stream("POST", f"{release.endpoint}/chat/completions", json=body, timeout=60) as reply:
                lines = [line for line in reply.iter_lines() if line]
            lengths.append(len(lines) - 1 if lines and lines[-1] == "data: [DONE]" else -1)
        except httpx.HTTPError:
            lengths.append(-1)


def test_a_release_that_fails_leaves_the_old_one_serving(served: Store) -> None:
    old = serve_job(served, merged_model(served))
    release = put_up(old, served)
    port, pid = old.spec.port, engine_pid(old, served)

    crashing = serve_job(served, merged_model(served, die="OSError: no tokenizer found"), port)
    with pytest.raises(EngineUnhealthy, match="OSError: no tokenizer found"):
        put_up(crashing, served)
    refused = serve_job(
        served, merged_model(served, die="api_server.py: error: unrecognized arguments: --wrng 1"), port
    )
    with pytest.raises(ServeRefused, match=r"unrecognized arguments: --wrng 1: correct serve\.engine_args"):
        put_up(refused, served)
    worse = serve_job(served, merged_model(served, answers={**RIGHT, "How many are 1 lamps?": "2"}), port)
    with pytest.raises(GateFailed, match=r"0\.250 below"):
        put_up(worse, served)

    assert answer(release, "How many are 1 lamps?") == "1"
    assert engine_pid(old, served) == pid
    assert len([line for line in processes_of(served) if "engine.py" in line]) == 1


def test_a_first_release_that_fails_leaves_nothing(served: Store) -> None:
    with pytest.raises(EngineUnhealthy):
        put_up(serve_job(served, merged_model(served, die="RuntimeError: no")), served)
    assert not processes_of(served)
    assert endpoint.status(served) is None


@pytest.mark.parametrize("manners", [{"start": 4}, {"think": 2}], ids=["while starting", "while asked"])
def test_a_killed_run_is_finished_by_the_same_command(served: Store, manners: dict) -> None:
    job = serve_job(served, merged_model(served, **manners))
    script = "import sys, pathlib; from tunesmith import runner, store, jobs; job = jobs.ServeJob.model_validate_json("
    script += "sys.argv[1]); runner.run(job, store.Store(pathlib.Path(sys.argv[2])))"
    command = [sys.executable, "-c", script, job.model_dump_json(), str(served.root)]
    with subprocess.Popen(command, start_new_session=True) as killed:
        log = served.room(job.room_name) / "stage.log"
        sign = "fake engine for" if "start" in manners else "smoke question answered"
        _until(lambda: log.exists() and sign in log.read_text())
        pid = engine_pid(job, served)
        for process in [*psutil.Process(killed.pid).children(recursive=True), killed]:
            process.kill()
    assert psutil.pid_exists(pid), "the engine is the supervisor's, not the run's"
    release = put_up(job, served)
    assert engine_pid(job, served) == pid
    assert answer(release, "How many are 5 lamps?") == "5"
    assert len([line for line in processes_of(served) if "engine.py" in line]) == 1


def test_it_comes_back_after_a_crash(served: Store) -> None:
    job = serve_job(served, merged_model(served))
    release = put_up(job, served)
    first = engine_pid(job, served)
    psutil.Process(first).kill()
    assert answer(release, "How many are 2 lamps?") == "2", "the router holds the request until the engine is back"
    assert engine_pid(job, served) != first

    pid_file = Supervisor(served).folder / "supervisord.pid"
    psutil.Process(int(pid_file.read_text())).kill()
    _until(lambda: not processes_of(served))
    assert endpoint.trouble(served, endpoint.current(served)) is not None
    put_up(job, served)
    assert answer(release, "How many are 2 lamps?") == "2"


def test_a_taken_port_is_refused_and_named(served: Store) -> None:
    job = serve_job(served, merged_model(served))
    command = [sys.executable, "-m", "http.server", str(job.spec.port), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, cwd=served.root, stderr=subprocess.DEVNULL) as other:
        _until(lambda: _answers(job.spec.port))
        with pytest.raises(PortBusy, match=rf"Port {job.spec.port} .* \(pid {other.pid}\).*choose another port"):
            put_up(job, served)
        other.kill()
    assert not processes_of(served)


def test_a_key_guards_everything_and_is_written_nowhere(served: Store) -> None:
    job = serve_job(served, merged_model(served), api_key_env="ORDERS_KEY")
    with pytest.raises(ServeRefused, match="export ORDERS_KEY"):
        put_up(job, served)
    release = put_up(job, served, ORDERS_KEY="sesame-4711")
    assert answer(release, "How many are 2 lamps?", key="sesame-4711") == "2"
    with pytest.raises(openai.AuthenticationError):
        answer(release, "How many are 2 lamps?", key="guessed")
    router = release.endpoint.removesuffix("/v1")
    for path in ("/list_workers", "/metrics", "/v1/models"):
        assert httpx.get(router + path).status_code == 401
    assert httpx.post(f"{router}/add_worker", params={"url": "http://127.0.0.1:9"}).status_code == 401
    assert not [line for line in processes_of(served) if "sesame-4711" in line]
    files = [path for path in served.root.rglob("*") if path.is_file()]
    assert not [path for path in files if b"sesame-4711" in path.read_bytes()]
    with pytest.raises(ServeRefused, match=r"another API key.*tunesmith stop"):
        put_up(
            serve_job(served, merged_model(served, tokens=3), job.spec.port, api_key_env="ORDERS_KEY"),
            served,
            ORDERS_KEY="new",
        )


def test_a_release_moves_to_another_port(served: Store) -> None:
    model = merged_model(served)
    first = put_up(serve_job(served, model), served)
    second = put_up(serve_job(served, model), served)
    assert first.endpoint != second.endpoint
    assert answer(second, "How many are 2 lamps?") == "2"
    with pytest.raises(openai.APIConnectionError):
        answer(first, "How many are 2 lamps?")


def test_stopping_waits_for_no_run(served: Store) -> None:
    with only_one(served), pytest.raises(ServeRefused, match="A run is at work"):
        endpoint.stop(served)


def test_a_status_can_be_shown_as_json(served: Store) -> None:
    assert endpoint.status(served) is None
    put_up(serve_job(served, merged_model(served)), served)
    status = endpoint.status(served)
    assert status
    shown = json.loads(status.model_dump_json())
    assert {"engine", "router"} == {program["name"].partition("-")[0] for program in shown["programs"]}


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").is_success
    except httpx.HTTPError:
        return False


def _until(holds) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.05)
