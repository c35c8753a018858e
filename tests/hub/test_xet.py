"""Files that a hub has in Xet, brought by the real hf_xet from a storage on loopback."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.authority import Authority
from tests.hub.cas import TOKEN, Cas
from tests.hub.client import finish, start, until
from tests.hub.content import Flipped, Held, MadeUp
from tests.hub.downloading import REPO, SIZE, Download, assert_right, leftovers, repo_of
from tests.hub.faults import FaultyHub, said
from tests.hub.proxy import Proxy
from tests.hub.wire import Answer
from tunesmith.errors import EnvironmentMissing
from tunesmith.hub.listing import resolve_model
from tunesmith.jobs import DownloadJob
from tunesmith.runner import run
from tunesmith.specs.model import ModelSpec
from tunesmith.specs.spec import fingerprint
from tunesmith.store import Store, sha256

WEIGHTS = "model.safetensors"
MB = 1_000_000
FOR_EVER = 600.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hf_xet keeps its log."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture
def cas() -> Iterator[Cas]:
    with Cas() as cas:
        yield cas


@pytest.fixture
def by_xet(download: Download) -> Download:
    return download._replace(xet=True)


def test_a_repo_comes_through_xet(cas: Cas, by_xet: Download) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}, xet=cas) as hub:
        result = by_xet.fetch(hub)
        assert not hub.requests("cdn") and len(hub.requests("token")) == 1
        assert SIZE <= cas.sent < SIZE * 1.2
    assert_right(result, repo.files)
    assert result.verified == 3 and result.sources == (hub.address,) and by_xet.heard.notes == []


def test_without_the_switch_nobody_asks_xet(cas: Cas, download: Download) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}, xet=cas) as hub:
        assert_right(download.fetch(hub), repo.files)
        assert hub.sent(WEIGHTS) >= SIZE and not cas.seen and not hub.requests("token")


def test_files_that_xet_does_not_have_come_as_ever(by_xet: Download) -> None:
    repo = repo_of(**{"other.safetensors": MadeUp(5 * MB, seed=1)})
    with Cas(has=lambda content: content.size == SIZE) as cas, FaultyHub({REPO: repo}, xet=cas) as hub:
        assert_right(by_xet.fetch(hub), repo.files)
        sent = hub.sent_by_file()
        assert cas.sent >= SIZE and sent[WEIGHTS] == 0 and sent["other.safetensors"] >= 5 * MB
    assert by_xet.heard.notes == []


def test_progress_moves_while_it_comes(by_xet: Download) -> None:
    repo = repo_of()
    with Cas(rate=2.0 * MB) as cas, FaultyHub({REPO: repo}, xet=cas) as hub:
        by_xet.fetch(hub)
        assert cas.sent < SIZE * 1.2, "what is on its way is not asked for again"
    steps = [step.done for step in by_xet.heard.steps]
    assert len([done for done in steps if 0 < done < SIZE]) > 1 and steps == sorted(steps) and steps[-1] >= SIZE


def refusing(status: int) -> Answer:
    return Answer(status, content=Held(b"no"), length=2)


@pytest.mark.parametrize("fault", ["no token", "no such file", "no chunks", "chunks break off", "silence", "nobody"])
def test_what_xet_does_not_bring_comes_as_ever(fault: str, cas: Cas, by_xet: Download) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}, xet=cas) as hub:
        if fault == "no token":
            cas.token_answer = refusing(403)
        elif fault == "no such file":
            cas.changes["reconstruction"] = lambda answer: refusing(404)
        elif fault == "no chunks":
            cas.changes["xorb"] = lambda answer: refusing(500)
        elif fault == "chunks break off":
            cas.changes["xorb"] = lambda answer: answer.having(end="reset", end_after=100_000)
        elif fault == "silence":
            cas.changes["xorb"] = lambda answer: answer.having(end="stall", end_after=0)
        else:
            cas.token_answer = said({"casUrl": "http://127.0.0.1:9", "exp": 1 << 40, "accessToken": TOKEN})
        result = by_xet.fetch(hub)
        assert hub.sent(WEIGHTS) >= SIZE
    assert_right(result, repo.files)
    (note,) = by_xet.heard.notes
    assert note.startswith(f"Xet did not bring {WEIGHTS} (") and "\n" not in note


def test_a_storage_that_knows_only_a_part_of_the_file(cas: Cas, by_xet: Download) -> None:
    def without_end(answer: Answer) -> Answer:
        if answer.status != 200:
            return answer
        found = json.loads(answer.content.read(0, answer.length))
        found["terms"][-1]["range"]["end"] -= 1
        found["terms"][-1]["unpacked_length"] -= 128 << 10
        return said(found)

    repo = repo_of()
    cas.changes["reconstruction"] = without_end
    with FaultyHub({REPO: repo}, xet=cas) as hub:
        assert_right(by_xet.fetch(hub), repo.files)
    assert by_xet.heard.notes == [
        f"Xet did not bring {WEIGHTS} (it ends early): it comes like a file that Xet does not have."
    ]


def test_what_fails_midway_goes_on_from_there(by_xet: Download) -> None:
    repo = repo_of()
    with Cas(rate=4.0 * MB) as cas, FaultyHub({REPO: repo}, xet=cas) as hub:
        cas.changes["xorb"] = lambda answer: refusing(500) if cas.sent > SIZE // 2 else answer
        result = by_xet.fetch(hub)
        assert 0 < hub.sent(WEIGHTS) < SIZE * 0.8
    assert_right(result, repo.files)


def test_after_some_failures_xet_is_left_alone(cas: Cas, by_xet: Download) -> None:
    repo = repo_of(**{f"{number}.safetensors": MadeUp(3 * MB, seed=number) for number in range(1, 20)})
    cas.changes["reconstruction"] = lambda answer: refusing(404)
    with FaultyHub({REPO: repo}, xet=cas) as hub:
        assert_right(by_xet.fetch(hub), repo.files)
    assert 3 <= len(by_xet.heard.notes) <= 10


def test_wrong_bytes_are_thrown_away_and_fetched_the_other_way(cas: Cas, by_xet: Download) -> None:
    repo = repo_of()
    cas.changes["xorb"] = lambda answer: answer.having(content=Flipped(answer.content, 1000))
    with FaultyHub({REPO: repo}, xet=cas) as hub:
        result = by_xet.fetch(hub)
        assert cas.sent < SIZE * 1.2 and hub.sent(WEIGHTS) >= SIZE
    assert_right(result, repo.files)
    assert by_xet.heard.notes == [f"{WEIGHTS} does not match its listed size or sha256: thrown away."]


def test_the_hub_s_token_goes_to_the_hub_alone(cas: Cas, by_xet: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = repo_of()
    repo.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with FaultyHub({REPO: repo}, xet=cas) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        assert_right(by_xet.fetch(hub), repo.files)
        (asked,) = hub.requests("token")
        assert asked.asked.head.headers["authorization"] == "Bearer hf_secret"
    assert cas.sent >= SIZE and all("hf_secret" not in str(one.head) for one in cas.seen)


def test_a_token_that_is_to_be_had_elsewhere_is_not_asked_for(cas: Cas, by_xet: Download) -> None:
    repo = repo_of()
    with FaultyHub({REPO: repo}) as elsewhere, FaultyHub({REPO: repo}, xet=cas) as hub:
        cas.refresh_route = f"{elsewhere.address}/api/models/{REPO}/xet-read-token/main"
        assert_right(by_xet.fetch(hub), repo.files)
        assert hub.sent(WEIGHTS) >= SIZE and not elsewhere.requests() and not cas.seen


def test_hf_hub_disable_xet(cas: Cas, by_xet: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    repo = repo_of()
    with FaultyHub({REPO: repo}, xet=cas) as hub:
        assert_right(by_xet.fetch(hub), repo.files)
        assert not cas.seen and hub.sent(WEIGHTS) >= SIZE
    assert by_xet.heard.notes == ["HF_HUB_DISABLE_XET is set: no file comes through Xet."]


def test_without_hf_xet_there_is_one_sentence(cas: Cas, by_xet: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hf_xet", None)
    with FaultyHub({REPO: repo_of()}, xet=cas) as hub:
        with pytest.raises(EnvironmentMissing, match=r"hf_xet, .* is not installed: run `make env-main`, or leave out"):
            by_xet.fetch(hub)
        assert not hub.requests("resolve")


def test_over_tls_and_through_a_proxy(tmp_path: Path, hf_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, authority = repo_of(), Authority(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    tls = authority.signed()
    with Cas(tls=tls) as cas, FaultyHub({REPO: repo}, xet=cas, tls=tls) as hub, Proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.address)
        facts = finish(start(hub, hf_cache, xet=True))
        assert cas.sent >= SIZE and not hub.sent(WEIGHTS)
        assert {f"https://{tunnel}" for tunnel in proxy.tunnels} == {hub.address, cas.address}
    assert facts["verified"] == 3


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_has_arrived_stays(how: signal.Signals, hf_cache: Path) -> None:
    size = 4 * SIZE
    repo = repo_of(size)
    with Cas(rate=4.0 * MB) as cas, FaultyHub({REPO: repo}, xet=cas) as hub:
        process = start(hub, hf_cache, xet=True)
        until(lambda: cas.sent >= size * 0.6, process)
        process.send_signal(how)
        process.communicate(timeout=30)
        assert process.returncode not in (0, None) and hub.sent(WEIGHTS) == 0
        before = cas.sent
        facts = finish(start(hub, hf_cache, xet=True))
        assert cas.sent - before < size * 0.8 and hub.sent(WEIGHTS) == 0
    snapshot = Path(str(facts["path"]))
    assert sha256(snapshot / WEIGHTS) == repo.files[WEIGHTS].sha256 and leftovers(snapshot) == []


def test_ctrl_c_while_the_storage_is_silent(cas: Cas, hf_cache: Path) -> None:
    cas.changes["xorb"] = lambda answer: answer.having(end="stall", end_after=100)
    with FaultyHub({REPO: repo_of()}, xet=cas) as hub:
        process = start(hub, hf_cache, xet=True, read_s=FOR_EVER)
        until(lambda: cas.sent > 0, process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode not in (0, None) and not list(hf_cache.rglob("blobs/*.owner"))


def test_the_command(cas: Cas, hf_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyHub({REPO: repo_of()}, xet=cas) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        command = [sys.executable, "-m", "tunesmith.cli", "download", REPO, "--xet", "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and json.loads(done.stdout)["verified"] == 3, done.stderr
        assert cas.sent >= SIZE and not hub.requests("cdn")


def test_a_recipe_s_switch_reaches_the_stage_and_no_fingerprint(cas: Cas, hf_cache: Path, store: Store) -> None:
    repo = repo_of(**{"tokenizer_config.json": Held(b'{"chat_template": "x"}')})
    with FaultyHub({REPO: repo}, xet=cas) as hub:
        specs = [ModelSpec(repo=REPO, hub=hub.address, xet=xet) for xet in (False, True)]
        sources = [resolve_model(spec, Path()) for spec in specs]
        assert len({fingerprint(value) for value in specs}) == len({fingerprint(value) for value in sources}) == 1
        run(DownloadJob(source=sources[1]), store)
        assert cas.sent >= SIZE and not hub.requests("cdn")
