"""A data file of a dataset repo comes pinned and checked."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback import loopback_hub
from tunesmith.errors import CorruptArtifact, DataError, RepoNotFound
from tunesmith.hub.datasets import fetch_dataset_file
from tunesmith.specs.data import HubDataset

ROW = '{"prompt": "a", "completion": "b"}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    repo = tmp_path / "hub/datasets/acme/orders"
    (repo / "data").mkdir(parents=True)
    (repo / "data/train.jsonl").write_text(ROW)
    (repo / "data/train.parquet").write_bytes(b"PAR1 not really")
    return tmp_path / "hub"


@pytest.fixture
def hub(folder: Path, hf_cache: Path) -> Iterator[str]:
    with loopback_hub(folder) as address:
        yield address


def test_a_file_is_fetched_at_a_commit(hub: str, folder: Path, hf_cache: Path) -> None:
    path = fetch_dataset_file(HubDataset(repo="acme/orders", file="data/train.jsonl"), [hub])
    assert path.read_text() == ROW
    assert path.is_relative_to(hf_cache) and len(path.parent.parent.name) == 40
    (folder / "datasets/acme/orders/data/train.jsonl").write_text(ROW * 2)
    assert fetch_dataset_file(HubDataset(repo="acme/orders", file="data/train.jsonl"), [hub]).read_text() == ROW * 2


def test_the_usual_hub_is_hf_endpoint(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub)
    assert fetch_dataset_file(HubDataset(repo="acme/orders", file="data/train.parquet")).read_bytes()[:4] == b"PAR1"


def test_refusals(hub: str) -> None:
    with pytest.raises(DataError) as caught:
        fetch_dataset_file(HubDataset(repo="acme/orders", file="data/tain.jsonl"), [hub])
    assert str(caught.value) == f"acme/orders on {hub} has no file data/tain.jsonl: did you mean data/train.jsonl?"
    with pytest.raises(DataError, match=r"notes.txt of acme/orders is neither JSON Lines nor Parquet: name a \.jsonl"):
        fetch_dataset_file(HubDataset(repo="acme/orders", file="notes.txt"), [hub])
    with pytest.raises(RepoNotFound, match="There is no dataset repo acme/nothing on"):
        fetch_dataset_file(HubDataset(repo="acme/nothing", file="a.jsonl"), [hub])


def test_other_content_than_listed_is_refused(folder: Path, hf_cache: Path) -> None:
    file = folder / "datasets/acme/orders/data/train.parquet"
    stat = file.stat()
    row = {"path": "data/train.parquet", "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": "c" * 64}
    (folder / "datasets/acme/orders/.listing.json").write_text(json.dumps({"files": [row]}))
    with (
        loopback_hub(folder) as hub,
        pytest.raises(CorruptArtifact, match=r"data/train\.parquet of acme/orders, fetched"),
    ):
        fetch_dataset_file(HubDataset(repo="acme/orders", file="data/train.parquet"), [hub])
    assert not list(hf_cache.rglob("blobs/*"))
