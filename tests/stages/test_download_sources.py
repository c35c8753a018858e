"""A pinned model comes exactly as it was pinned, whatever became of its sources since."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.hearing import Heard
from tests.hub import breakages as b
from tests.hub.content import Content, Held, MadeUp
from tests.hub.faults import FaultyHub, Rule
from tests.hub.repo import Repo
from tests.loopback import flip_byte, loopback_hub, write_model
from tunesmith.artifacts import ModelSource
from tunesmith.errors import CorruptArtifact, GatedRepo, HubUnavailable, ModelError
from tunesmith.hub.listing import resolve_model
from tunesmith.jobs import DownloadJob
from tunesmith.runner import Outcome, run
from tunesmith.specs.model import ModelSpec
from tunesmith.store import Store, sha256

REPO, WEIGHTS = "acme/tiny", "model.safetensors"
SIZE = 24_000_000
DEAD = "http://127.0.0.1:9"


@pytest.fixture
def root(tmp_path: Path, hf_cache: Path) -> Path:
    write_model(tmp_path / "hub/acme/tiny", weight_bytes=3_000_000)
    return tmp_path / "hub"


@pytest.fixture
def twin(tmp_path: Path, hf_cache: Path) -> Path:
    """The same files, at another commit."""
    write_model(tmp_path / "twin/acme/tiny", weight_bytes=3_000_000)
    (tmp_path / "twin/acme/tiny/README.md").write_text("# elsewhere\n")
    return tmp_path / "twin"


def resolve(*sources: str, **keys: Any) -> ModelSource:
    return resolve_model(ModelSpec(repo=REPO, sources=sources, **keys), Path())


def download(source: ModelSource, store: Store, heard: Heard | None = None) -> Outcome:
    return run(DownloadJob(source=source), store, heard or Heard())


def assert_right(outcome: Outcome, source: ModelSource, store: Store) -> Mapping[str, float]:
    """Exactly what was pinned is there; the metrics of the stage."""
    out = store.out(outcome.artifact)
    assert {path.name: sha256(path) for path in out.iterdir()} == {entry.path: entry.sha256 for entry in source.files}
    manifest = store.manifest(outcome.room)
    assert manifest is not None
    return manifest.metrics


def notes(heard: Heard) -> list[str]:
    return [event["text"] for event in heard.of("note")]


@pytest.mark.parametrize("second", ["modelscope", "folder", "hub"])
def test_the_first_dies_between_resolve_and_download(
    root: Path, twin: Path, store: Store, hf_cache: Path, second: str
) -> None:
    """And everything that came with the listing is gone too."""
    with loopback_hub(twin) as other:
        word = {"modelscope": f"modelscope={other}", "folder": str(twin), "hub": other}[second]
        with loopback_hub(root) as hub:
            source = resolve(hub, word)
        shutil.rmtree(hf_cache)
        heard = Heard()
        outcome = download(source, store, heard)
    assert source.endpoint == hub and outcome.artifact.model_dump()["commit"] == source.commit
    assert assert_right(outcome, source, store)["bytes_received"] == source.total_bytes
    (note,) = notes(heard)
    assert f"The hub {hub} did not answer" in note and note.endswith("Going on with the next source.")


def test_nobody_that_listed_it_is_asked_for_the_list_again(root: Path, store: Store, hf_cache: Path) -> None:
    folder = root / REPO
    repo = Repo({path.name: Held(path.read_bytes()) for path in folder.iterdir() if path.name[0] != "."})
    with FaultyHub({REPO: repo}) as hub:
        source = resolve(hub.address)
        shutil.rmtree(hf_cache)
        asked = len(hub.requests("info"))
        # Not for the branch either, which has moved and forgotten where it was.
        kept = repo.versions[repo.commit]
        repo.push({**kept, "config.json": Held(b"{}")})
        outcome = download(source, store)
        assert len(hub.requests("info")) == asked
    assert_right(outcome, source, store)
    assert not list(hf_cache.rglob("refs/main")), "it says nothing about where the branch is now"


def test_a_commit_that_the_first_no_longer_has(root: Path, twin: Path, store: Store, hf_cache: Path) -> None:
    repo = Repo({path.name: Held(path.read_bytes()) for path in (root / REPO).iterdir() if path.name[0] != "."})
    with FaultyHub({REPO: repo}) as hub, loopback_hub(twin) as other:
        source = resolve(hub.address, f"modelscope={other}")
        shutil.rmtree(hf_cache)
        repo.push({**repo.files, "config.json": Held(b"{}")}, forget=True)
        assert_right(download(source, store), source, store)
        with pytest.raises(ModelError, match=f"has no revision {source.commit}"):
            shutil.rmtree(hf_cache)
            download(source.model_copy(update={"sources": (hub.address,)}), Store(store.root / "other").open())


def test_a_commit_that_only_the_first_knows_comes_from_anothers_branch(
    root: Path, twin: Path, store: Store, hf_cache: Path
) -> None:
    """With the model's own code, which its digest pins like everything else."""
    for folder in (root, twin):
        (folder / REPO / "modeling_own.py").write_text("raise SystemExit('this was run')")
    with loopback_hub(twin) as other:
        with loopback_hub(root) as hub:
            trusted = {"revision": resolve(hub).commit, "trust_remote_code": True}
            source = resolve(hub, f"modelscope={other}", **trusted)
        shutil.rmtree(hf_cache)
        assert_right(download(source, store), source, store)
        assert "modeling_own.py" in {entry.path for entry in source.files}
        (twin / REPO / "modeling_own.py").write_text("raise SystemExit('this was gun')")
        shutil.rmtree(hf_cache)
        with pytest.raises(HubUnavailable, match=f"The hub {hub} did not answer"):
            download(source, Store(store.root / "other").open())


def test_what_the_first_began_the_next_finishes(tmp_path: Path, store: Store, hf_cache: Path) -> None:
    files: dict[str, Content] = {
        path.name: Held(path.read_bytes())
        for path in write_model(tmp_path / "twin/acme/tiny").iterdir()
        if path.name != WEIGHTS
    }
    files[WEIGHTS] = MadeUp(SIZE)
    (tmp_path / "twin" / REPO / WEIGHTS).write_bytes(files[WEIGHTS].read(0, SIZE))
    broken = Rule("cdn", b.closed(2_000_000), times=3), Rule("cdn", b.status(403), skip=3)
    gone = Rule("resolve", b.status(404), path=WEIGHTS, skip=6)
    with FaultyHub({REPO: Repo(files)}, *broken, gone) as hub, loopback_hub(tmp_path / "twin") as other:
        source = resolve(hub.address, f"modelscope={other}")
        metrics = assert_right(download(source, store), source, store)
        assert hub.sent(WEIGHTS) > 1_000_000
    assert SIZE <= metrics["bytes_received"] < SIZE + hub.sent(WEIGHTS)


def test_the_first_serves_a_flipped_byte(root: Path, twin: Path, store: Store) -> None:
    heard = Heard()
    with loopback_hub(root) as hub, loopback_hub(twin) as other:
        source = resolve(hub, f"modelscope={other}")
        flip_byte(root / REPO / WEIGHTS, 1_000)
        assert_right(download(source, store, heard), source, store)
    assert notes(heard) == [f"{WEIGHTS} does not match its listed size or sha256: thrown away."]


def test_what_only_looks_the_same_is_taken_from_nobody(root: Path, twin: Path, store: Store, hf_cache: Path) -> None:
    """The hub that listed it is gone; the other has a small file of the same name and size, and other weights."""
    (twin / REPO / "tokenizer.json").write_text("[]")
    flip_byte(twin / REPO / WEIGHTS)
    with loopback_hub(root) as hub:
        source = resolve(hub, str(twin))
    shutil.rmtree(hf_cache)
    with pytest.raises((HubUnavailable, ModelError)) as caught:
        download(source, store)
    assert f"The hub {hub} did not answer" in str(caught.value)
    kept = [path for path in hf_cache.rglob("blobs/*") if path.read_bytes() == b"[]"]
    assert not kept and not list(hf_cache.rglob(WEIGHTS))


def test_modelscope_alone(twin: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback_hub(twin) as other:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", other)
        source = resolve("modelscope")
        assert source.sources == (f"modelscope={other}",)
        assert_right(download(source, store), source, store)


def test_a_token_of_modelscope_reaches_the_stage(
    twin: Path, store: Store, hf_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (twin / REPO / ".gated").write_text("open-sesame")
    with loopback_hub(twin) as other:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", other)
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", "open-sesame")
        source = resolve("modelscope")
        assert_right(download(source, store), source, store)
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", "guess")
        with pytest.raises(GatedRepo, match="the token in MODELSCOPE_API_TOKEN has no access"):
            shutil.rmtree(hf_cache)
            download(source, Store(store.root / "other").open())


def test_a_folder_alone(twin: Path, store: Store, hf_cache: Path) -> None:
    source = resolve(str(twin))
    assert_right(download(source, store), source, store)
    with pytest.raises(CorruptArtifact, match=f"stays different from what {twin} lists"):
        shutil.rmtree(hf_cache)
        flip_byte(twin / REPO / WEIGHTS)
        download(source, Store(store.root / "other").open())


def test_a_folder_that_is_gone_is_passed_over(root: Path, twin: Path, store: Store, hf_cache: Path) -> None:
    heard = Heard()
    with loopback_hub(root) as hub:
        source = resolve(str(twin), hub)
        shutil.rmtree(twin)
        assert_right(download(source, store, heard), source, store)
    assert source.endpoint == str(twin)
    assert [note for note in notes(heard) if note.startswith(f"There is no folder {twin}")]
    shutil.rmtree(hf_cache)
    with pytest.raises(ModelError, match=f"There is no folder {twin}: check model.sources"):
        download(source.model_copy(update={"sources": (str(twin),)}), Store(store.root / "other").open())


def test_offline_the_cache_is_enough(twin: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback_hub(twin) as other:
        word = f"modelscope={other}"
        online = resolve(word)
        download(online, store)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    offline: Any = resolve(word)
    assert offline.identity() == online.identity() and offline.commit == online.commit
