"""The hub answers as huggingface_hub expects, and serves nothing but what it lists."""

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.loopback import flip_byte, loopback_hub, write_model
from tunesmith.errors import ModelError, PortBusy
from tunesmith.hub.server import build_app, listen
from tunesmith.hub.shelf import Repository, Shelf, git_blob_id
from tunesmith.store import sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "hub"
    model = write_model(root / "acme" / "tiny")
    (model / "sub").mkdir()
    (model / "sub" / "note.txt").write_text("below")
    (model / ".secret").write_text("classified")
    rows = root / "datasets" / "acme" / "rows"
    rows.mkdir(parents=True)
    (rows / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "outside.txt").write_text("classified")
    return root


@pytest.fixture
def hub(folder: Path, hf_cache: Path) -> Iterator[str]:
    with loopback_hub(folder) as address:
        yield address


def test_model_info_gives_commit_sizes_and_digests(hub: str, folder: Path) -> None:
    info = HfApi(endpoint=hub).model_info("acme/tiny", files_metadata=True)
    weights = folder / "acme/tiny/model.safetensors"
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    assert set(siblings) == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "sub/note.txt"
    }  # fmt: skip
    assert siblings["model.safetensors"].lfs is not None
    assert siblings["model.safetensors"].lfs.sha256 == sha256(weights)
    assert siblings["model.safetensors"].size == weights.stat().st_size
    assert siblings["config.json"].lfs is None
    assert siblings["config.json"].blob_id == git_blob_id((folder / "acme/tiny/config.json").read_bytes())
    assert info.sha is not None and len(info.sha) == 40 and int(info.sha, 16)
    assert HfApi(endpoint=hub).model_info("acme/tiny", revision=info.sha).sha == info.sha


def test_git_blob_id_is_gits() -> None:
    # `printf 'hello\n' | git hash-object --stdin`
    assert git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_tree_lists_folders_and_files(hub: str) -> None:
    api = HfApi(endpoint=hub)
    assert {row.path for row in api.list_repo_tree("acme/tiny")} >= {"sub", "config.json"}
    assert "sub/note.txt" not in {row.path for row in api.list_repo_tree("acme/tiny")}
    assert {row.path for row in api.list_repo_tree("acme/tiny", recursive=True)} >= {"sub", "sub/note.txt"}
    assert [row.path for row in api.list_repo_tree("acme/tiny", "sub")] == ["sub/note.txt"]
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree("acme/tiny", "nowhere"))


def test_snapshot_download_brings_the_same_bytes(hub: str, folder: Path) -> None:
    local = Path(snapshot_download("acme/tiny", endpoint=hub))
    for name in ("config.json", "model.safetensors", "sub/note.txt"):
        assert (local / name).read_bytes() == (folder / "acme/tiny" / name).read_bytes()
    assert (local / "model.safetensors").resolve().name == sha256(folder / "acme/tiny/model.safetensors")


def test_dataset_repo(hub: str) -> None:
    info = HfApi(endpoint=hub).dataset_info("acme/rows", files_metadata=True)
    assert [sibling.rfilename for sibling in info.siblings or ()] == ["train.jsonl"]
    path = hf_hub_download("acme/rows", "train.jsonl", repo_type="dataset", endpoint=hub, revision=info.sha)
    assert json.loads(Path(path).read_text())["completion"] == "b"


def test_large_files_are_redirected_small_ones_answered(hub: str, folder: Path) -> None:
    digest = sha256(folder / "acme/tiny/model.safetensors")
    large = httpx.head(f"{hub}/acme/tiny/resolve/main/model.safetensors")
    assert large.status_code == 302
    assert large.headers["location"].startswith(f"{hub}/cdn/models/acme/tiny/")
    assert large.headers["x-linked-etag"] == f'"{digest}"'
    assert int(large.headers["x-linked-size"]) == (folder / "acme/tiny/model.safetensors").stat().st_size
    small = httpx.head(f"{hub}/acme/tiny/resolve/main/config.json")
    assert small.status_code == 200 and small.content == b""
    assert small.headers["x-repo-commit"] == large.headers["x-repo-commit"]
    assert "x-linked-etag" not in small.headers
    assert int(small.headers["content-length"]) == (folder / "acme/tiny/config.json").stat().st_size


@pytest.mark.parametrize(
    ("asked", "span"), [("bytes=10-19", (10, 20)), ("bytes=4000-", (4000, None)), ("bytes=-5", (-5, None))]
)
def test_ranges(hub: str, folder: Path, asked: str, span: tuple[int, int | None]) -> None:
    content = (folder / "acme/tiny/model.safetensors").read_bytes()
    address = f"{hub}/acme/tiny/resolve/main/model.safetensors"
    part = httpx.get(address, headers={"Range": asked}, follow_redirects=True)
    assert part.status_code == 206
    assert part.content == content[slice(*span)]
    assert part.headers["content-range"].endswith(f"/{len(content)}")


def test_range_past_the_end_is_416(hub: str) -> None:
    address = f"{hub}/acme/tiny/resolve/main/model.safetensors"
    assert httpx.get(address, headers={"Range": "bytes=999999-"}, follow_redirects=True).status_code == 416


def test_stale_if_range_gets_the_whole_file(hub: str, folder: Path) -> None:
    address = f"{hub}/acme/tiny/resolve/main/model.safetensors"
    headers = {"Range": "bytes=0-9", "If-Range": '"another"'}
    whole = httpx.get(address, headers=headers, follow_redirects=True)
    assert whole.status_code == 200 and len(whole.content) == (folder / "acme/tiny/model.safetensors").stat().st_size


def test_what_is_not_there_is_told_apart(hub: str) -> None:
    api = HfApi(endpoint=hub)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/nothing")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("acme/tiny", revision="refs/pr/9")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("acme/tiny", "absent.txt", endpoint=hub)
    assert httpx.get(f"{hub}/api/spaces/acme/tiny").headers["x-error-code"] == "RepoNotFound"


@pytest.mark.parametrize(
    "path",
    [
        "acme/tiny/resolve/main/..%2F..%2F..%2Foutside.txt",
        "acme/tiny/resolve/main/%2Fetc%2Fpasswd",
        "acme/tiny/resolve/main/.secret",
        "acme/tiny/resolve/main/escape.txt",
        "acme/tiny/resolve/main/escape/outside.txt",
        "acme/tiny/resolve/main/nul%00",
        "acme/tiny/resolve/main/caf%C3%A9%0A",
        "acme/..%2F../resolve/main/outside.txt",
        "../hub/resolve/main/outside.txt",
        "acme/linked/resolve/main/outside.txt",
        "datasets/acme/resolve/main/train.jsonl",
        "cdn/models/acme/tiny/main/..%2Ftiny%2F.secret",
    ],
)
def test_nothing_outside_the_listing_is_served(hub: str, folder: Path, path: str) -> None:
    (folder / "acme/tiny/escape.txt").symlink_to(folder.parent / "outside.txt")
    (folder / "acme/tiny/escape").symlink_to(folder.parent)
    (folder / "acme/linked").symlink_to(folder.parent)
    # Sent raw: an HTTP client would tidy the path first.
    host, port = hub.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))
    assert b"classified" not in answer


def test_link_inside_the_folder_is_served(hub: str, folder: Path) -> None:
    (folder / "acme/tiny/again.json").symlink_to(folder / "acme/tiny/config.json")
    assert httpx.get(f"{hub}/acme/tiny/resolve/main/again.json").status_code == 200


def test_gated_repo_wants_its_token(hub: str, folder: Path) -> None:
    (folder / "acme/tiny/.gated").write_text("open-sesame\n")
    assert HfApi(endpoint=hub).model_info("acme/tiny").gated == "manual"
    with pytest.raises(GatedRepoError):
        hf_hub_download("acme/tiny", "config.json", endpoint=hub)
    address = f"{hub}/acme/tiny/resolve/main/model.safetensors"
    commit = httpx.get(f"{hub}/api/models/acme/tiny").json()["sha"]
    wrong = httpx.get(address, headers={"Authorization": "Bearer guess"})
    assert (wrong.status_code, wrong.headers["x-error-code"]) == (403, "GatedRepo")
    assert httpx.get(f"{hub}/cdn/models/acme/tiny/{commit}/model.safetensors").status_code == 401
    local = snapshot_download("acme/tiny", endpoint=hub, token="open-sesame")
    assert (Path(local) / "model.safetensors").exists() and not (Path(local) / ".gated").exists()


def test_metadata_only_files_are_listed_but_not_served(tmp_path: Path, hf_cache: Path) -> None:
    repo = write_model(tmp_path / "hub/acme/big")
    (repo / "model.safetensors").unlink()
    row = {"path": "model.safetensors", "size": 15_000_000_000, "sha256": "a" * 64, "metadata_only": True}
    (repo / ".listing.json").write_text(json.dumps({"files": [row]}))
    with loopback_hub(tmp_path / "hub") as hub:
        info = HfApi(endpoint=hub).model_info("acme/big", files_metadata=True)
        sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
        assert sizes["model.safetensors"] == 15_000_000_000
        with pytest.raises(RemoteEntryNotFoundError):
            hf_hub_download("acme/big", "model.safetensors", endpoint=hub)
    assert json.loads((repo / ".listing.json").read_text())["files"][0] == row


def test_commit_follows_the_content(folder: Path, hub: str) -> None:
    before = HfApi(endpoint=hub).model_info("acme/tiny").sha
    (folder / "acme/tiny/config.json").write_text("{}")
    after = HfApi(endpoint=hub).model_info("acme/tiny").sha
    assert before != after
    with pytest.raises(RevisionNotFoundError):
        HfApi(endpoint=hub).model_info("acme/tiny", revision=before)


def test_digests_are_remembered_until_a_file_changes(folder: Path) -> None:
    repo, root = folder / "acme/tiny", folder.resolve()
    first = Repository(repo, root).entries()["model.safetensors"].sha256
    flip_byte(repo / "model.safetensors")
    assert Repository(repo, root).entries()["model.safetensors"].sha256 == first
    (repo / "model.safetensors").touch()
    again = Repository(repo, root).entries()["model.safetensors"].sha256
    assert again == hashlib.sha256((repo / "model.safetensors").read_bytes()).hexdigest() != first


def test_warm_hashes_every_repo(folder: Path) -> None:
    Shelf(folder).warm()
    rows = json.loads((folder / "acme/tiny/.listing.json").read_text())["files"]
    assert [row["path"] for row in rows] == ["model.safetensors"]


def test_serve_as_a_process_says_where_and_stops_on_sigterm(folder: Path) -> None:
    code = "import sys; from pathlib import Path; from tunesmith.hub.server import serve; serve(Path(sys.argv[1]), '127.0.0.1', 0)"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip().rpartition("HF_ENDPOINT=")[2]
        assert httpx.get(f"{address}/api/models/acme/tiny").json()["id"] == "acme/tiny"
    finally:
        process.terminate()
    rest, _ = process.communicate(timeout=20)
    assert rest == ""


def test_busy_port_and_missing_folder(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortBusy, match=f"Port {port} on 127.0.0.1 is taken: stop who listens there or choose"):
            listen("127.0.0.1", port)
    with pytest.raises(ModelError, match=r"There is no folder .*nowhere to serve: name one that holds"):
        build_app(tmp_path / "nowhere")
