"""The backup beside a run: what is new is pushed, and no fault of a hub is more than a note."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backup.runs import Past, past_run
from tests.hub.upload_hub import Fault, UploadHub, Where
from tunesmith.backup.remote import remote_of
from tunesmith.backup.watch import Rhythm, Watch
from tunesmith.store import Store

RHYTHM = Rhythm(look_s=0.01, backoff_s=0.01, longest_backoff_s=0.05, last_tries=4)


class Heard:
    def __init__(self, then: Callable[[str], None] = lambda text: None) -> None:
        self.notes: list[str] = []
        self.then = then

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.then(text)


def watch(past: Past, heard: Heard) -> Watch:
    return Watch(past.request(), remote_of(past.request().spec), heard, RHYTHM)


def over() -> threading.Event:
    """A run that has come to its end."""
    event = threading.Event()
    event.set()
    return event


def sent(hub: UploadHub) -> set[str]:
    return {path for path in hub.repos["me/kept"].files if path.endswith(".safetensors")}


@pytest.mark.parametrize("to", ["hf:me/kept", "modelscope:me/kept"])
@pytest.mark.parametrize("how", [500, 429, "reset", "slow"])
@pytest.mark.parametrize("where", ["create", "tree", "batch", "put", "commit"])
def test_every_fault_of_a_hub_passes(store: Store, recipe: Path, hub: UploadHub, where: Where, how, to: str) -> None:
    past = past_run(store, recipe, to)
    past.make("train", "merge")
    hub.faults.append(Fault(where, how, times=2))
    heard = Heard()
    assert watch(past, heard).run(over())
    assert sent(hub) == {"adapter/model.safetensors", "merged/model.safetensors"}
    assert not any("\n" in note for note in heard.notes)


def test_what_is_finished_is_pushed_while_the_run_goes_on(past: Past, hub: UploadHub) -> None:
    ended, order = threading.Event(), iter(["merge", "quantize"])

    def go_on(text: str) -> None:
        if "sent" in text:
            stage = next(order, None)
            past.make(stage) if stage else ended.set()

    heard = Heard(go_on)
    past.make("train")
    assert watch(past, heard).run(ended)
    parts = [note.split(": ")[1].split(" ")[0] for note in heard.notes]
    assert parts == ["adapter", "merged", "quantized"]
    assert len(hub.asked("put")) == 3


def test_each_new_checkpoint_takes_the_place_of_the_one_before(past: Past, hub: UploadHub) -> None:
    one = watch(past, Heard())
    past.checkpoint(10)
    one.round()
    repo = hub.repos["me/kept"]
    assert json.loads(repo.files["checkpoint/trainer_state.json"]) == {"global_step": 10}
    past.checkpoint(20)
    past.checkpoint(30, sealed=False)
    one.round()
    assert json.loads(repo.files["checkpoint/trainer_state.json"]) == {"global_step": 20}
    assert [message for message in repo.commits if message.startswith("checkpoint")] == [
        "checkpoint: checkpoint-10", "checkpoint: checkpoint-20",
    ]  # fmt: skip
    assert not (past.request().folder() / "checkpoint").exists(), "what was set aside takes no room afterwards"


def test_checkpoints_wait_for_their_minutes(store: Store, recipe: Path, hub: UploadHub) -> None:
    past = past_run(store, recipe, every=600)
    one = watch(past, Heard())
    for step in (10, 20):
        past.checkpoint(step)
        one.round()
    assert json.loads(hub.repos["me/kept"].files["checkpoint/trainer_state.json"]) == {"global_step": 10}


def test_a_damaged_checkpoint_holds_nothing_back(past: Past, hub: UploadHub) -> None:
    (past.checkpoint(10) / "optimizer.pt").write_bytes(b"zeroes")
    past.make("train")
    assert watch(past, Heard()).run(over())
    assert sent(hub) == {"adapter/model.safetensors"}
    assert not any(path.startswith("checkpoint/") for path in hub.repos["me/kept"].files)


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        (["adapter"], {"adapter/model.safetensors"}),
        (["release"], {"merged/model.safetensors", "quantized/model.safetensors"}),
        (["checkpoints"], set()),
    ],
    ids=["adapter", "release", "checkpoints"],
)
def test_only_what_is_asked_for_is_pushed(store: Store, recipe: Path, hub: UploadHub, what, wanted) -> None:
    past = past_run(store, recipe, what=what)
    past.make("train", "merge", "quantize")
    assert watch(past, Heard()).run(over())
    assert sent(hub) == wanted and "README.md" in hub.repos["me/kept"].files


def test_a_hub_that_is_away_is_told_once_and_given_up_at_the_end(past: Past, hub: UploadHub) -> None:
    past.make("train")
    hub.__exit__()
    heard = Heard()
    assert not watch(past, heard).run(over())
    assert len(heard.notes) == 2, heard.notes
    assert "did not answer or broke off" in heard.notes[0]
    assert "`tunesmith backup` pushes the rest" in heard.notes[1]


def test_a_hub_that_comes_back_gets_everything(past: Past, hub: UploadHub) -> None:
    past.make("train")
    hub.faults.append(Fault("tree", 503, times=12))
    ended = threading.Event()
    heard = Heard(lambda text: ended.set() if "sent" in text else None)
    assert watch(past, heard).run(ended)
    assert sent(hub) == {"adapter/model.safetensors"}
    assert sum("did not answer" in note for note in heard.notes) == 1


def test_a_refused_token_is_told_once_and_never_raised(past: Past, hub: UploadHub, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    past.make("train")
    heard = Heard()
    assert not watch(past, heard).run(over())
    assert sum("does not let the token" in note for note in heard.notes) == 1
    assert "somebody_else" not in " ".join(heard.notes)


def test_even_a_fault_nobody_foresaw_is_a_note(past: Past, hub: UploadHub, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("never seen before")

    monkeypatch.setattr("tunesmith.backup.watch.push", broken)
    heard = Heard()
    assert not watch(past, heard).run(over())
    assert "ZeroDivisionError" in heard.notes[0]
