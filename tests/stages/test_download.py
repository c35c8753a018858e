"""The download stage, run for real against a hub on loopback."""

import asyncio
import json
import os
import shutil
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.loopback import flip_byte, loopback_hub, write_model
from tunesmith.artifacts import ModelSnapshot, ModelSource
from tunesmith.errors import CorruptArtifact, DiskFull, GatedRepo, HubUnavailable, ModelError, StageCrashed
from tunesmith.hub.listing import resolve_model
from tunesmith.jobs import DownloadJob
from tunesmith.runner import Outcome, Silent, run
from tunesmith.specs.model import ModelSpec
from tunesmith.store import Store, sha256

FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return write_model(tmp_path / "hub/acme/tiny", weight_bytes=3_000_000)


@pytest.fixture
def root(repo: Path, hf_cache: Path) -> Path:
    """What the hub serves, with an empty cache on the client's side."""
    return repo.parent.parent


def resolve(hub: str) -> ModelSource:
    return resolve_model(ModelSpec(repo="acme/tiny", hub=hub), Path())


def download(source: ModelSource, store: Store, listener: Any = None) -> Outcome:
    return run(DownloadJob(source=source), store, listener)


def moved_to(hub: str, source: ModelSource) -> ModelSource:
    """The same model, asked of another address."""
    return source.model_copy(update={"endpoint": hub, "sources": (hub,)})


def blob(cache: Path) -> Path:
    (weights,) = cache.rglob("snapshots/*/model.safetensors")
    return weights.resolve()


class Recorder(Silent):
    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []

    def event(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)


class Counted:
    """ASGI middleware: which paths were asked for, and a choice of what to do with each response's body."""

    def __init__(self, pause: float = 0.0, break_at: int | None = None) -> None:
        self.pause, self.break_at = pause, break_at
        self.sent: dict[str, int] = {}
        self.app: Any = None

    def __call__(self, app: Any) -> Any:
        self.app = app
        return self.answer

    async def answer(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        async def counted(message: Any) -> None:
            body = len(message.get("body", b""))
            self.sent[scope["path"]] = self.sent.get(scope["path"], 0) + body
            if body > 60_000:
                await asyncio.sleep(self.pause)
            if self.break_at is not None and self.sent[scope["path"]] > self.break_at:
                raise ConnectionResetError
            await send(message)

        await self.app(scope, receive, counted)

    def weight_bytes(self) -> int:
        return sum(sent for path, sent in self.sent.items() if path.startswith("/cdn/"))


def test_files_arrive_verified_and_are_linked(root: Path, repo: Path, store: Store, hf_cache: Path) -> None:
    recorder = Recorder()
    with loopback_hub(root) as hub:
        source = resolve(hub)
        outcome = download(source, store, recorder)
        again = download(source, store)
    snapshot = outcome.artifact
    assert isinstance(snapshot, ModelSnapshot)
    assert (snapshot.repo, snapshot.commit) == ("acme/tiny", source.commit)
    out = store.out(snapshot)
    assert {path.name for path in out.iterdir()} == FILES
    assert all((out / name).is_symlink() and (out / name).resolve().is_relative_to(hf_cache) for name in FILES)
    assert (out / "model.safetensors").read_bytes() == (repo / "model.safetensors").read_bytes()
    manifest = store.manifest(outcome.room)
    assert manifest is not None
    assert manifest.metrics["bytes_total"] == source.total_bytes
    # The small files came with the listing.
    assert manifest.metrics["bytes_received"] == (repo / "model.safetensors").stat().st_size
    last = [event for event in recorder.events if event["event"] == "progress"][-1]
    assert (last["done"], last["total"], last["unit"]) == (source.total_bytes, source.total_bytes, "B")
    assert again.cached and not outcome.cached


def test_another_store_takes_the_bytes_from_the_cache(root: Path, store: Store, tmp_path: Path) -> None:
    counted = Counted()
    with loopback_hub(root, counted) as hub:
        source = resolve(hub)
        download(source, store)
        first = counted.weight_bytes()
        other = Store(tmp_path / "other").open()
        outcome = download(source, other)
        assert counted.weight_bytes() == first > 0
    manifest = other.manifest(outcome.room)
    assert manifest is not None and manifest.metrics["bytes_received"] == 0


def test_a_damaged_file_in_the_cache_is_fetched_again(
    root: Path, repo: Path, store: Store, tmp_path: Path, hf_cache: Path
) -> None:
    recorder = Recorder()
    with loopback_hub(root) as hub:
        source = resolve(hub)
        download(source, store)
        flip_byte(blob(hf_cache), offset=1_000_000)
        download(source, Store(tmp_path / "other").open(), recorder)
    assert sha256(blob(hf_cache)) == sha256(repo / "model.safetensors")
    notes = [event["text"] for event in recorder.events if event["event"] == "note"]
    assert notes == ["model.safetensors does not match its listed size or sha256: thrown away."]


def test_a_hub_that_serves_other_bytes_than_it_lists_is_refused_by_name(
    root: Path, repo: Path, store: Store, hf_cache: Path
) -> None:
    counted = Counted()
    with loopback_hub(root, counted) as hub:
        source = resolve(hub)
        flip_byte(repo / "model.safetensors", offset=2_000_000)
        with pytest.raises(CorruptArtifact) as caught:
            download(source, store)
    assert str(caught.value) == (
        f"model.safetensors of acme/tiny stays different from what {hub} lists, fetched anew: "
        "tell the hub's owner, or set another model.hub."
    )
    assert counted.weight_bytes() == 2 * (repo / "model.safetensors").stat().st_size
    assert not list(hf_cache.rglob("snapshots/*/model.safetensors")), "no bad bytes stay for other programs"


def test_a_full_disk_is_noticed_before_the_first_byte(root: Path, repo: Path, store: Store, hf_cache: Path) -> None:
    (repo / "model.safetensors").unlink()
    row = {"path": "model.safetensors", "size": 1 << 60, "sha256": "d" * 64, "metadata_only": True}
    (repo / ".listing.json").write_text(json.dumps({"files": [row]}))
    with loopback_hub(root) as hub:
        source = resolve(hub)
        shutil.rmtree(hf_cache)
        with pytest.raises(DiskFull) as caught:
            download(source, store)
    message = str(caught.value)
    assert message.startswith(f"The model needs 1,073,741,824.0 GiB more in {hf_cache} and ")
    assert message.endswith("GiB are free: free some space, or set HF_HOME to a folder on a larger disk.")
    assert not list(hf_cache.rglob("tokenizer.json"))


def test_listed_but_not_served(root: Path, repo: Path, store: Store) -> None:
    (repo / "model.safetensors").unlink()
    row = {"path": "model.safetensors", "size": 100, "sha256": "d" * 64, "metadata_only": True}
    (repo / ".listing.json").write_text(json.dumps({"files": [row]}))
    with loopback_hub(root) as hub, pytest.raises(ModelError, match="lists files of acme/tiny that it does not serve"):
        download(resolve(hub), store)


def test_a_hub_that_goes_away(root: Path, store: Store) -> None:
    with loopback_hub(root) as hub:
        source = resolve(hub)
    with pytest.raises(HubUnavailable, match=f"The hub {hub} did not answer or broke off"):
        download(source, store)
    with loopback_hub(root) as elsewhere:
        moved = moved_to(elsewhere, source)
        assert DownloadJob(source=moved).fingerprint == DownloadJob(source=source).fingerprint
        assert not download(moved, store).cached


def test_a_hub_that_breaks_off_and_stays_broken(root: Path, store: Store, hf_cache: Path) -> None:
    with loopback_hub(root, Counted(break_at=1_500_000)) as hub, pytest.raises(HubUnavailable, match="broke off"):
        download(resolve(hub), store)
    assert not list(hf_cache.rglob("snapshots/*/model.safetensors"))


def test_gated_between_listing_and_download(
    root: Path, repo: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loopback_hub(root) as hub:
        source = resolve(hub)
        (repo / ".gated").write_text("open-sesame")
        with pytest.raises(GatedRepo, match="acme/tiny is gated on"):
            download(source, store)
        monkeypatch.setenv("HF_ENDPOINT", hub)
        monkeypatch.setenv("HF_TOKEN", "open-sesame")
        assert isinstance(download(source, store).artifact, ModelSnapshot)


class KillAtProgress(Silent):
    """Kills the stage's process with signal 9 once some bytes have arrived."""

    def __init__(self) -> None:
        self.killed = threading.Event()

    def event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "progress" and 9_000_000 < event["done"] < event["total"]:
            for child in psutil.Process().children():
                # Children of earlier tests may be ending.
                with suppress(psutil.Error):
                    if "tunesmith.stages.download.hub" in child.cmdline():
                        os.kill(child.pid, signal.SIGKILL)
                        self.killed.set()


def test_killed_midway_and_run_again(root: Path, repo: Path, store: Store) -> None:
    write_model(repo, weight_bytes=25_000_000)
    killer = KillAtProgress()
    with loopback_hub(root, Counted(pause=0.3)) as slow:
        source = resolve(slow)
        with pytest.raises(StageCrashed, match="download was killed by signal 9"):
            download(source, store, killer)
    assert killer.killed.is_set() and store.manifest(DownloadJob(source=source).room_name) is None
    with loopback_hub(root) as hub:
        outcome = download(moved_to(hub, source), store)
    assert sha256(store.out(outcome.artifact) / "model.safetensors") == sha256(repo / "model.safetensors")


def test_a_local_folder_is_linked_and_held_to_its_listing(tmp_path: Path, store: Store, hf_cache: Path) -> None:
    folder = write_model(tmp_path / "model")
    source = resolve_model(ModelSpec(path="model"), tmp_path)
    outcome = download(source, store)
    out = store.out(outcome.artifact)
    assert {path.name: path.resolve() for path in out.iterdir()} == {name: folder / name for name in FILES}
    manifest = store.manifest(outcome.room)
    assert manifest is not None and manifest.metrics["bytes_received"] == 0
    assert not hf_cache.exists()
    flip_byte(folder / "model.safetensors")
    with pytest.raises(CorruptArtifact, match=r"model\.safetensors in .*model has changed since the run began: run"):
        download(source, Store(tmp_path / "other").open())
