"""A push brings what the repo lacks, whole, and sends nothing twice."""

import hashlib
import shutil
from collections.abc import Sequence

import pytest

from tests.backup.runs import Past
from tests.hub.upload_hub import TOKEN, Fault, UploadHub
from tunesmith.backup.parts import finished, newest_checkpoint, set_aside
from tunesmith.backup.push import Pushed, push
from tunesmith.backup.remote import remote_of
from tunesmith.errors import BackupRefused, CorruptArtifact, HubUnavailable
from tunesmith.specs.backup import BackupSpec, What
from tunesmith.store import OUT

TO = ["hf:me/kept", "modelscope:me/kept"]
ALL: tuple[What, ...] = ("adapter", "checkpoints", "release")


def bring(past: Past, to: str = "hf:me/kept", what: tuple[What, ...] = ALL, private: bool = True) -> Sequence[Pushed]:
    remote = remote_of(BackupSpec(to=to, private=private))
    assert remote.missing_token() is None
    return push(remote, finished(past.store, past.rooms, what), "---\ntags: [x]\n---\n# kept\n")


def contents(past: Past, stage: str, folder: str) -> dict[str, bytes]:
    out = past.store.room(past.rooms[stage]) / OUT
    return {f"{folder}/{path.name}": path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("to", TO)
def test_the_bytes_arrive_and_a_second_push_sends_nothing(past: Past, hub: UploadHub, to: str) -> None:
    past.make("train", "merge", "quantize")
    pushed = bring(past, to)
    wanted = contents(past, "train", "adapter") | contents(past, "merge", "merged")
    wanted |= contents(past, "quantize", "quantized")
    files = dict(hub.repos["me/kept"].files)
    card = files.pop("README.md")
    assert files == wanted and b"# kept" in card
    assert hub.repos["me/kept"].private
    sent = sum(len(content) for content in [*wanted.values(), card])
    assert sum(one.bytes for one in pushed) == sent
    for name, blob in hub.blobs.items():
        assert hashlib.sha256(blob).hexdigest() == name

    before = len(hub.asked("put")), len(hub.asked("commit"))
    again = bring(past, to)
    assert (len(hub.asked("put")), len(hub.asked("commit"))) == before
    assert sum(one.files for one in again) == 0 and sum(one.there for one in again) == len(wanted) + 1


@pytest.mark.parametrize("to", TO)
def test_the_token_goes_to_the_hub_and_not_to_where_blobs_are_stored(past: Past, hub: UploadHub, to: str) -> None:
    past.make("train")
    bring(past, to)
    stored = [one for one in hub.log if one.host.startswith("localhost")]
    assert stored and not any(one.secret for one in stored)
    assert all(TOKEN in one.secret for one in hub.log if one not in stored)


def test_another_hub_than_the_token_is_for_gets_neither_token_nor_push(past: Past, hub: UploadHub) -> None:
    past.make("train")
    with UploadHub() as other:
        said = remote_of(BackupSpec(to=f"{other.address}/me/kept")).missing_token()
        assert said is not None and f"set HF_ENDPOINT={other.address}" in said
        assert other.log == []


def test_a_url_names_a_repo_on_the_hub_the_token_is_for(past: Past, hub: UploadHub) -> None:
    past.make("train")
    bring(past, f"{hub.address}/me/elsewhere")
    assert "adapter/model.safetensors" in hub.repos["me/elsewhere"].files


@pytest.mark.parametrize("to", TO)
def test_an_open_repo_is_made_where_it_is_asked_for(past: Past, hub: UploadHub, to: str) -> None:
    bring(past, to, private=False)
    assert not hub.repos["me/kept"].private


@pytest.mark.parametrize("to", TO)
def test_a_push_that_was_cut_off_goes_on(past: Past, hub: UploadHub, to: str) -> None:
    past.make("train")
    hub.faults.append(Fault("commit", 503, times=99))
    with pytest.raises(HubUnavailable, match="tried again later"):
        bring(past, to, ("adapter",))
    assert len(hub.asked("put")) == 1 and not hub.repos["me/kept"].files
    hub.faults.clear()
    bring(past, to, ("adapter",))
    assert len(hub.asked("put")) == 1, "the blob was there, though no commit named it"
    assert contents(past, "train", "adapter").items() <= hub.repos["me/kept"].files.items()


@pytest.mark.parametrize("to", TO)
def test_a_folder_becomes_what_is_here_in_one_commit(past: Past, hub: UploadHub, to: str) -> None:
    past.make("train")
    bring(past, to)
    repo = hub.repos["me/kept"]
    repo.files["adapter/old.json"] = b"{}"
    repo.files["mine/notes.txt"] = b"not ours"
    repo.files["adapter/config.json"] = b"changed"
    before = len(repo.commits)
    bring(past, to)
    assert len(repo.commits) == before + 1
    assert "adapter/old.json" not in repo.files and repo.files["mine/notes.txt"] == b"not ours"
    assert contents(past, "train", "adapter").items() <= repo.files.items()


@pytest.mark.parametrize("to", TO)
def test_a_token_that_may_not_write_is_one_sentence(
    past: Past, hub: UploadHub, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "of_somebody_else")
    with pytest.raises(BackupRefused, match=r"does not let the token in .* write to me/kept") as caught:
        bring(past, to)
    assert "\n" not in caught.value.message and "somebody_else" not in caught.value.message


@pytest.mark.parametrize("to", TO)
def test_a_file_that_is_not_what_its_manifest_lists_is_not_pushed(past: Past, hub: UploadHub, to: str) -> None:
    past.make("train")
    path = past.store.room(past.rooms["train"]) / OUT / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(CorruptArtifact, match=r"adapter/model\.safetensors"):
        bring(past, to)
    assert "adapter/model.safetensors" not in hub.repos["me/kept"].files


@pytest.mark.parametrize(("to", "said"), [("hf:me/kept", "HF_TOKEN"), ("modelscope:me/kept", "MODELSCOPE_API_TOKEN")])
def test_a_missing_token_is_a_sentence(to: str, said: str) -> None:
    sentence = remote_of(BackupSpec(to=to)).missing_token()
    assert sentence is not None and f"set {said} to a token that may write" in sentence


def test_a_checkpoint_is_pushed_only_when_whole(past: Past) -> None:
    shelf = past.request().folder() / "checkpoint"
    assert newest_checkpoint(past.store, past.rooms) is None
    whole = past.checkpoint(10)
    past.checkpoint(20, sealed=False)
    assert newest_checkpoint(past.store, past.rooms) == whole
    damaged = past.checkpoint(30)
    (damaged / "optimizer.pt").write_bytes(b"zeroes")
    assert set_aside(damaged, shelf) is None


def test_a_checkpoint_set_aside_outlives_the_trainers_tidying(past: Past, hub: UploadHub) -> None:
    checkpoint = past.checkpoint(10)
    content = (checkpoint / "optimizer.pt").read_bytes()
    part = set_aside(checkpoint, past.request().folder() / "checkpoint")
    shutil.rmtree(checkpoint)
    assert part is not None and part.origin == "checkpoint-10"
    push(remote_of(past.request().spec), [part], "---\ntags: [x]\n---\n")
    assert hub.repos["me/kept"].files["checkpoint/optimizer.pt"] == content
    assert set_aside(checkpoint, past.request().folder() / "checkpoint") is None
