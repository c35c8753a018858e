"""Downloads through the engine, against a hub on loopback: what arrives, from whom, and what is left behind."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import snapshot_download

from tests.hub.downloading import Heard
from tests.loopback import flip_byte, loopback_hub, safetensors, write_model
from tunesmith.errors import CorruptArtifact, DiskFull, ModelError, RepoNotFound, StoreNotWritable
from tunesmith.hub.transfer import engine, partial
from tunesmith.hub.transfer.engine import fetch
from tunesmith.hub.transfer.partial import Partial
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.recheck import recheck
from tunesmith.hub.transfer.report import Result
from tunesmith.hub.transfer.source import Source
from tunesmith.hub.transfer.sources.folder import Folder
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.store import sha256

REPO = "acme/tiny"
SIZE = 5_000_000
QUICK = Patience(tries=3, backoff_s=0.01, owner_s=0.3, beat_s=0.05)
WEIGHTS = "model.safetensors"


class Counted:
    """ASGI middleware: bytes of bodies by path, and the Authorization headers each path was shown."""

    def __init__(self) -> None:
        self.sent: dict[str, int] = {}
        self.tokens: dict[str, bytes | None] = {}

    def __call__(self, app: Any) -> Any:
        async def answer(scope: Any, receive: Any, send: Callable[[Any], Any]) -> None:
            async def counted(message: Any) -> None:
                self.sent[scope["path"]] = self.sent.get(scope["path"], 0) + len(message.get("body", b""))
                await send(message)

            self.tokens[scope["path"]] = dict(scope["headers"]).get(b"authorization")
            await app(scope, receive, counted)

        return answer

    @property
    def weights(self) -> int:
        return sum(count for path, count in self.sent.items() if path.endswith(WEIGHTS))


@pytest.fixture
def repo(tmp_path: Path, hf_cache: Path) -> Path:
    return write_model(tmp_path / "hub/acme/tiny", weight_bytes=SIZE)


@pytest.fixture
def root(repo: Path) -> Path:
    return repo.parent.parent


def get(sources: list[Source], cache: Path, heard: Heard | None = None, **more: Any) -> Result:
    return fetch(sources, REPO, cache=cache, report=heard or Heard(), patience=QUICK, **more)


def begin(cache: Path, repo: Path, start: int = 0) -> int:
    """Leaves a partial of the weights with its first 3 MB, as a killed process would; returns the bytes in it."""
    content = (repo / WEIGHTS).read_bytes()
    digest = sha256(repo / WEIGHTS)
    blobs = cache / "models--acme--tiny/blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    partial = Partial(blobs / f"{digest}.part", len(content), f"sha256:{digest}")
    partial.write(start, content[start : start + 3_000_000])
    partial.close()
    return 3_000_000


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models--acme--tiny/blobs").iterdir())


def test_the_cache_is_one_that_huggingface_hub_takes_for_its_own(root: Path, repo: Path, hf_cache: Path) -> None:
    heard, counted = Heard(), Counted()
    with loopback_hub(root, counted) as hub:
        result = get([HuggingFace(hub)], hf_cache, heard)
        sent = counted.weights
        assert Path(snapshot_download(REPO, endpoint=hub)) == result.path
        assert counted.weights == sent
    total = sum(path.stat().st_size for path in repo.iterdir() if not path.name.startswith("."))
    assert (result.bytes_total, result.bytes_received, result.bytes_reused) == (total, total, 0)
    assert result.sources == (hub,) and result.verified == 4
    assert heard.last is not None and heard.last.done == heard.last.total == total
    assert str((result.path / WEIGHTS).readlink()) == f"../../blobs/{sha256(repo / WEIGHTS)}"
    assert (hf_cache / "models--acme--tiny/refs/main").read_text() == result.commit
    assert {path.name for path in result.path.iterdir()} == {
        path.name for path in repo.iterdir() if path.name[0] != "."
    }


@pytest.mark.parametrize("start", [0, 1_500_000])
def test_a_partial_is_gone_on_with(root: Path, repo: Path, hf_cache: Path, start: int) -> None:
    there, counted = begin(hf_cache, repo, start), Counted()
    with loopback_hub(root, counted) as hub:
        result = get([HuggingFace(hub)], hf_cache)
    assert result.bytes_reused == there
    assert counted.weights == (repo / WEIGHTS).stat().st_size - there
    assert sha256(result.path / WEIGHTS) == sha256(repo / WEIGHTS)
    assert not [name for name in names(hf_cache) if ".part" in name]


def test_a_partial_with_wrong_bytes_in_it_is_thrown_away_once(root: Path, repo: Path, hf_cache: Path) -> None:
    begin(hf_cache, repo)
    (part,) = hf_cache.rglob("*.part")
    flip_byte(part, 1_000)
    heard = Heard()
    with loopback_hub(root) as hub:
        result = get([HuggingFace(hub)], hf_cache, heard)
    assert sha256(result.path / WEIGHTS) == sha256(repo / WEIGHTS)
    assert heard.notes == [f"{WEIGHTS} does not match its listed size or sha256: thrown away."]


def test_a_hub_with_wrong_bytes_is_followed_by_the_next(root: Path, tmp_path: Path, hf_cache: Path) -> None:
    good = write_model(tmp_path / "good/acme/tiny", weight_bytes=SIZE)
    heard = Heard()
    with loopback_hub(root) as bad, loopback_hub(tmp_path / "good") as other:
        get([HuggingFace(bad)], hf_cache, include=["config.json"])
        flip_byte(root / REPO / WEIGHTS)
        result = get([HuggingFace(bad), HuggingFace(other)], hf_cache, heard)
    assert sha256(result.path / WEIGHTS) == sha256(good / WEIGHTS)
    assert len([note for note in heard.notes if "thrown away" in note]) == 1 and other in result.sources


def test_a_partial_from_one_source_is_completed_from_another(root: Path, repo: Path, hf_cache: Path) -> None:
    there = begin(hf_cache, repo)
    result = get([HuggingFace("http://127.0.0.1:9"), Folder(root)], hf_cache)
    assert result.bytes_reused == there and result.sources == (str(root),)
    assert sha256(result.path / WEIGHTS) == sha256(repo / WEIGHTS)


def test_a_source_that_lists_names_outside_is_not_believed(root: Path, hf_cache: Path) -> None:
    class Hostile(Folder):
        def listing(self, *args: Any) -> Any:
            listed = super().listing(*args)
            return listed._replace(files=tuple(one.model_copy(update={"path": "../../x"}) for one in listed.files))

    with pytest.raises(ModelError, match=r"lists a file whose name has an empty part, \. or \.\. in it"):
        get([Hostile(root)], hf_cache)
    assert not hf_cache.exists()


def test_the_same_content_under_two_names_is_fetched_once(
    root: Path, repo: Path, hf_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repo / "sub").mkdir()
    (repo / "sub/copy.safetensors").write_bytes((repo / WEIGHTS).read_bytes())
    # Room for one of them, and no more.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=SIZE * 3 // 2))
    with loopback_hub(root) as hub:
        result = get([HuggingFace(hub)], hf_cache, include=["*.safetensors"])
    assert result.bytes_received == (repo / WEIGHTS).stat().st_size == result.bytes_total // 2
    assert (result.path / "sub/copy.safetensors").resolve() == (result.path / WEIGHTS).resolve()
    assert len(names(hf_cache)) == 1


def test_only_what_is_asked_for(root: Path, hf_cache: Path) -> None:
    with loopback_hub(root) as hub:
        result = get([HuggingFace(hub)], hf_cache, include=["tokenizer*", "config.json"])
        with pytest.raises(ModelError, match=r"No file of acme/tiny at main matches \*\.gguf: check --include\."):
            get([HuggingFace(hub)], hf_cache, include=["*.gguf"])
    assert sorted(path.name for path in result.path.iterdir()) == [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_data_set_and_a_name_with_blanks(tmp_path: Path, hf_cache: Path) -> None:
    folder = tmp_path / "hub/datasets/acme/rows"
    folder.mkdir(parents=True)
    (folder / "a b#c%20ü.jsonl").write_text("{}\n")
    with loopback_hub(tmp_path / "hub") as hub:
        result = fetch([HuggingFace(hub)], "acme/rows", kind="dataset", cache=hf_cache)
    assert (result.path / "a b#c%20ü.jsonl").read_text() == "{}\n"
    assert result.path.parent.parent.name == "datasets--acme--rows"


def test_the_token_stays_with_its_host(root: Path, repo: Path, hf_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "open-sesame")
    counted = Counted()
    with loopback_hub(root, counted) as hub:
        get([HuggingFace(hub)], hf_cache)
        assert set(counted.tokens.values()) == {None}, "a hub that only the command names"
        monkeypatch.setenv("HF_ENDPOINT", hub)
        get([HuggingFace()], hf_cache / "second")
        assert b"Bearer open-sesame" in counted.tokens.values()


def test_a_disk_that_fills_up_keeps_what_has_arrived(
    root: Path, hf_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever connection brings them, two million bytes find room."""
    write_all, written = partial.write_all, [0]

    def full(fd: int, data: bytes, offset: int) -> None:
        written[0] += len(data)
        if written[0] > 2_000_000:
            raise OSError(28, "No space left on device")
        write_all(fd, data, offset)

    with loopback_hub(root) as hub:
        monkeypatch.setattr(partial, "write_all", full)
        with pytest.raises(DiskFull, match="is full: free some space, or set HF_HOME"):
            get([HuggingFace(hub)], hf_cache)
        monkeypatch.setattr(partial, "write_all", write_all)
        assert get([HuggingFace(hub)], hf_cache).bytes_reused > 1_000_000


def test_a_cache_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with loopback_hub(root) as hub, pytest.raises((StoreNotWritable, NotADirectoryError)):
        get([HuggingFace(hub)], tmp_path / "file/cache")


def test_names_that_are_none(root: Path, hf_cache: Path) -> None:
    for repo in ("../x", "a/b/c", "a--b", ""):
        with pytest.raises(RepoNotFound, match="is no model repo's name"):
            fetch([Folder(root / REPO)], repo, cache=hf_cache)
    assert not hf_cache.exists()


def test_leftovers_of_a_finished_file_go(root: Path, repo: Path, hf_cache: Path) -> None:
    with loopback_hub(root) as hub:
        get([HuggingFace(hub)], hf_cache)
        begin(hf_cache, repo)
        (hf_cache / "models--acme--tiny/blobs/old.1234.tmp").write_text("")
        os.utime(hf_cache / "models--acme--tiny/blobs/old.1234.tmp", (0, 0))
        get([HuggingFace(hub)], hf_cache)
    assert all(len(name) in (40, 64) for name in names(hf_cache))


def test_what_is_wrong_in_the_cache_is_named(root: Path, hf_cache: Path) -> None:
    with loopback_hub(root) as hub:
        result = get([HuggingFace(hub)], hf_cache)
    assert recheck(hf_cache, REPO).wrong == () == recheck(hf_cache, REPO, result.commit).unnamed
    flip_byte((result.path / WEIGHTS).resolve())
    (result.path / "config.json").resolve().unlink()
    (result.path / "extra.txt").write_text("x")
    found = recheck(hf_cache, REPO)
    assert (found.wrong, found.unnamed, found.files) == (("config.json", WEIGHTS), ("extra.txt",), 5)
    with pytest.raises(ModelError, match=r"does not hold acme/tiny at v2: download it first\."):
        recheck(hf_cache, REPO, "v2")


def test_a_digest_that_is_wrong_everywhere(root: Path, repo: Path, hf_cache: Path) -> None:
    with loopback_hub(root) as hub:
        HuggingFace(hub).listing(REPO, "main")
        flip_byte(repo / WEIGHTS)
        with pytest.raises(CorruptArtifact, match="stays different from what"):
            get([HuggingFace(hub)], hf_cache, include=[WEIGHTS])
    assert names(hf_cache) == []


def test_empty_files_and_files_of_a_whole_window(root: Path, repo: Path, hf_cache: Path) -> None:
    (repo / "empty.json").write_text("")
    (repo / "empty.bin").write_bytes(b"")
    (repo / "window.bin").write_bytes(safetensors((2 << 20) + 1))
    with loopback_hub(root) as hub:
        result = get([HuggingFace(hub)], hf_cache)
    for name in ("empty.json", "empty.bin", "window.bin"):
        assert (result.path / name).read_bytes() == (repo / name).read_bytes()


def test_no_network_is_needed_for_what_is_there(root: Path, hf_cache: Path) -> None:
    with loopback_hub(root) as hub:
        source = HuggingFace(hub)
        supply = engine.Supply([source], engine.Asked(REPO, "main", "model"), QUICK)
        engine.bring(supply, supply.listed.files, hf_cache)
    again = engine.bring(supply, supply.listed.files, hf_cache)
    assert again.bytes_received == 0 and again.bytes_reused == again.bytes_total


def test_a_blob_of_another_commit_is_hashed_before_it_is_linked(root: Path, repo: Path, hf_cache: Path) -> None:
    with loopback_hub(root) as hub:
        first = get([HuggingFace(hub)], hf_cache)
        (repo / "config.json").write_text('{"new": 1}')
        second = get([HuggingFace(hub)], hf_cache)
        assert second.commit != first.commit and second.verified == 4
        assert second.bytes_received == len('{"new": 1}'), "config.json alone is new"
        flip_byte((first.path / WEIGHTS).resolve())
        (repo / "config.json").write_text("[]")
        third = get([HuggingFace(hub)], hf_cache)
    assert sha256(third.path / WEIGHTS) == sha256(repo / WEIGHTS)


def files_asked_for(counted: Counted) -> set[str]:
    return {Path(path).name for path in counted.sent if "/resolve/" in path or path.startswith("/cdn/")}


def test_small_files_of_another_commit_are_not_asked_for_again(root: Path, repo: Path, hf_cache: Path) -> None:
    counted = Counted()
    with loopback_hub(root) as hub:
        first = get([HuggingFace(hub)], hf_cache)
    (repo / "tokenizer.json").write_text('{"version": 2}')
    with loopback_hub(root, counted) as hub:
        second = get([HuggingFace(hub)], hf_cache)
    assert files_asked_for(counted) == {"tokenizer.json"} and second.commit != first.commit
    assert second.bytes_reused == second.bytes_total - len('{"version": 2}') and second.verified == 4
    assert (second.path / "config.json").resolve() == (first.path / "config.json").resolve()


def test_a_small_blob_that_is_damaged_is_fetched_again(root: Path, repo: Path, hf_cache: Path) -> None:
    heard, counted = Heard(), Counted()
    with loopback_hub(root, counted) as hub:
        first = get([HuggingFace(hub)], hf_cache)
        flip_byte((first.path / "config.json").resolve(), 0)
        (repo / "tokenizer.json").write_text('{"version": 2}')
        counted.sent.clear()
        second = get([HuggingFace(hub)], hf_cache, heard)
    assert files_asked_for(counted) == {"config.json", "tokenizer.json"}
    assert (second.path / "config.json").read_bytes() == (repo / "config.json").read_bytes()
    assert heard.notes == ["config.json does not match its listed size or sha256: thrown away."]


def test_copies_where_there_are_no_links(
    root: Path, repo: Path, hf_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with loopback_hub(root) as hub:
        result = get([HuggingFace(hub)], hf_cache)
        assert get([HuggingFace(hub)], hf_cache).bytes_received == 0
    assert not (result.path / WEIGHTS).is_symlink() and sha256(result.path / WEIGHTS) == sha256(repo / WEIGHTS)
