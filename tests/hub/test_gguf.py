"""A GGUF named in a recipe: pinned and described from its head, without its weights, and every refusal a sentence."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.gguf_files import rewritten, tiny_ggufs
from tests.hub.breakages import closed, no_ranges, status
from tests.hub.content import Held
from tests.hub.faults import FaultyHub, Rule
from tests.hub.repo import Repo
from tests.loopback import loopback_hub
from tunesmith.artifacts import ModelSource
from tunesmith.errors import EnvironmentMissing, ModelError, NoChatTemplate, StageCrashed, UnknownArchitecture
from tunesmith.hub import gguf
from tunesmith.hub.client import repo_cache
from tunesmith.hub.listing import resolve_model
from tunesmith.hub.transfer.engine import fetch
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.specs.model import ModelSpec
from tunesmith.store import sha256

MIB = 1 << 20
NAME = "tiny-f32.gguf"
pytestmark = pytest.mark.env("train")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF of half a MiB."""
    return tiny_ggufs(tmp_path_factory.mktemp("gguf"), "llama:F32") / "llama-F32.gguf"


@pytest.fixture
def repo(tmp_path: Path, tiny: Path) -> Path:
    """A repo with one GGUF, 24 MiB large."""
    folder = tmp_path / "hub/acme/tiny-GGUF"
    rewritten(tiny, folder / NAME, {}, padding=24 * MIB)
    return folder


@pytest.fixture
def hub(repo: Path, hf_cache: Path) -> Iterator[str]:
    with loopback_hub(repo.parent.parent) as address:
        yield address


@pytest.fixture
def at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The far side answers without looking: for tests of what reaches it."""
    far_side(tmp_path, monkeypatch, """for last; do :; done; echo '{"config": {}}' > "$last" """)


def far_side(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A process in place of the train environment's."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setenv("TUNESMITH_PYTHON_TRAIN", str(python))


def resolve(hub: str, name: str | None = NAME, **keys: Any) -> ModelSource:
    return resolve_model(ModelSpec(repo="acme/tiny-GGUF", gguf=name, hub=hub, **keys), Path())


def faulty(file: Path, *rules: Rule) -> FaultyHub:
    return FaultyHub({"acme/tiny-GGUF": Repo({NAME: Held(file.read_bytes())})}, *rules)


def refusal(kind: type[Exception], hub: str, name: str | None = NAME) -> str:
    with pytest.raises(kind) as caught:
        resolve(hub, name)
    assert type(caught.value) is kind and "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_pinned_and_described_like_the_folder_of_the_same_model(hub: str, repo: Path, tiny: Path) -> None:
    source = resolve(hub)
    (entry,) = source.files
    assert (entry.path, entry.sha256) == (NAME, sha256(repo / NAME))
    assert source.endpoint == hub and len(source.commit) == 40
    own = json.loads((tiny.with_suffix("") / "config.json").read_text())
    assert {key: source.config[key] for key in own if key != "transformers_version"} == {
        key: value for key, value in own.items() if key != "transformers_version"
    }


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("description", "most"), [(0, MIB), (5 * MIB, 8 * MIB)])
def test_of_its_bytes_only_the_head_is_fetched(
    repo: Path, tiny: Path, hf_cache: Path, description: int, most: int
) -> None:
    file = rewritten(tiny, repo / NAME, {"general.description": "x" * description}, padding=24 * MIB)
    with faulty(file) as hub:
        resolve(hub.address)
        assert description < hub.sent(NAME) <= most
    assert not list(hf_cache.rglob("*.gguf"))


@pytest.mark.usefixtures("at_once")
def test_a_line_that_breaks_goes_on_where_it_was(repo: Path, hf_cache: Path) -> None:
    rules = Rule("cdn", status(503), times=1), Rule("cdn", closed(after=300_000), times=2)
    with faulty(repo / NAME, *rules) as hub:
        resolve(hub.address)
        assert hub.sent(NAME) < 1.1 * MIB


@pytest.mark.usefixtures("at_once")
def test_a_server_without_ranges_is_left_when_the_head_is_there(repo: Path, hf_cache: Path) -> None:
    with faulty(repo / NAME, Rule("cdn", no_ranges)) as hub:
        hub.rate = 8e6
        resolve(hub.address)
        assert hub.sent(NAME) < 12 * MIB


@pytest.mark.usefixtures("at_once")
def test_what_the_cache_has_is_not_fetched_again(repo: Path, hf_cache: Path) -> None:
    with faulty(repo / NAME) as hub:
        before = resolve(hub.address)
        fetch([HuggingFace(hub.address)], "acme/tiny-GGUF", cache=hf_cache)
        sent = hub.sent(NAME)
        assert resolve(hub.address) == before and hub.sent(NAME) == sent


@pytest.mark.usefixtures("at_once")
def test_offline_the_cache_is_enough(hub: str, hf_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = resolve(hub)
    fetch([HuggingFace(hub)], "acme/tiny-GGUF", cache=hf_cache)
    # A process of its own: huggingface_hub reads the variable when it is imported.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = (
        "import sys; from pathlib import Path; from tunesmith.hub.listing import resolve_model;"
        "from tunesmith.specs.model import ModelSpec;"
        "spec = ModelSpec(repo='acme/tiny-GGUF', gguf=sys.argv[1], hub=sys.argv[2]);"
        "print(resolve_model(spec, Path()).model_dump_json())"
    )
    done = subprocess.run([sys.executable, "-c", code, NAME, hub], capture_output=True, text=True, check=True)
    assert ModelSource.model_validate_json(done.stdout) == source
    assert str(repo_cache("acme/tiny-GGUF")).startswith(str(hf_cache))


@pytest.mark.usefixtures("at_once")
def test_the_fingerprint_is_the_files_content_wherever_it_is(repo: Path, tiny: Path, tmp_path: Path) -> None:
    by_folder = resolve_model(ModelSpec(path="hub/acme/tiny-GGUF", gguf=NAME), tmp_path)
    moved = rewritten(tiny, tmp_path / "elsewhere" / NAME, {}, padding=24 * MIB)
    by_file = resolve_model(ModelSpec(path=str(moved)), tmp_path)
    assert by_folder.identity() == by_file.identity() and by_folder.path != by_file.path
    assert by_file.files[0].sha256 == sha256(moved)
    rewritten(tiny, moved, {"general.name": "Other"}, padding=24 * MIB)
    assert resolve_model(ModelSpec(path=str(moved)), tmp_path).identity() != by_file.identity()


@pytest.mark.usefixtures("at_once")
def test_which_file_is_part_of_what_the_model_is(hub: str, repo: Path, tiny: Path) -> None:
    rewritten(tiny, repo / "low/tiny-q4.gguf", {"general.name": "Low"})
    first, other = resolve(hub), resolve(hub, "low/tiny-q4.gguf")
    assert first.identity() != other.identity() and first.commit == other.commit


def test_a_repo_of_ggufs_alone_names_them_and_the_key(hub: str, repo: Path) -> None:
    assert refusal(ModelError, hub, None) == (
        f"acme/tiny-GGUF on {hub} holds its weights only as GGUF: "
        "set model.gguf to the file to start from, one of tiny-f32.gguf."
    )
    for number in range(12):
        (repo / f"tiny-q{number:02}.gguf").write_bytes(b"x")
    said = refusal(ModelError, hub, None)
    assert said.endswith("tiny-f32.gguf, tiny-q00.gguf, " + ", ".join(
        f"tiny-q{number:02}.gguf" for number in range(1, 7)) + " and 5 more."
    )  # fmt: skip


def test_a_folder_of_ggufs_alone_too(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"^{repo} holds its weights only as GGUF: set model\.gguf .* tiny-f32\.gguf"):
        resolve_model(ModelSpec(path=str(repo)), tmp_path)


def test_a_file_that_is_not_there(hub: str, repo: Path, tmp_path: Path) -> None:
    where = f"acme/tiny-GGUF on {hub} has no file"
    assert refusal(ModelError, hub, "tiny-f23.gguf") == f"{where} tiny-f23.gguf: did you mean tiny-f32.gguf?"
    assert refusal(ModelError, hub, "zz.gguf") == f"{where} zz.gguf: it has tiny-f32.gguf."
    (repo / NAME).rename(repo / "tiny.bin")
    assert refusal(ModelError, hub, "zz.gguf") == f"{where} zz.gguf: it has no GGUF at all."
    with pytest.raises(ModelError, match=r"^There is no file .*gone\.gguf: check model\.path"):
        resolve_model(ModelSpec(path="gone.gguf"), tmp_path)
    with pytest.raises(ModelError, match=r"^There is no folder .*gone: check model\.path"):
        resolve_model(ModelSpec(path="gone", gguf="x.gguf"), tmp_path)


def test_a_part_of_one_is_refused(hub: str, repo: Path) -> None:
    names = [f"tiny-{number:05}-of-00002.gguf" for number in (1, 2)]
    for name in names:
        (repo / name).write_bytes(b"x")
    assert refusal(ModelError, hub, names[0]) == (
        f"{names[0]} of acme/tiny-GGUF on {hub} is one of 2 parts, and only a whole GGUF can be read: "
        "name a file that is in one piece, or join the parts with `llama-gguf-split --merge`."
    )


def test_what_is_no_gguf_or_is_cut_off(hub: str, repo: Path, tiny: Path) -> None:
    where = f"{NAME} of acme/tiny-GGUF on {hub} is"
    (repo / NAME).write_bytes(b"<html>" * 1000)
    assert refusal(ModelError, hub) == (
        f"{where} no GGUF that can be read (its first bytes are not GGUF): fetch it again, or name another."
    )
    content = tiny.read_bytes()
    (repo / NAME).write_bytes(content[:2000])
    assert f"{where} no GGUF that can be read (its head is damaged, or goes on behind" in refusal(ModelError, hub)
    (repo / NAME).write_bytes(content[:-1000])
    assert refusal(ModelError, hub).startswith(f"{where} cut off: ")


@pytest.mark.parametrize(
    ("settings", "kind", "sentence"),
    [
        ({"tokenizer.chat_template": None}, NoChatTemplate, "carries no chat template"),
        (
            {"general.architecture": "gemma", "gemma.block_count": 2},
            UnknownArchitecture,
            "is a gemma model, which transformers 5.23.0 cannot read from a GGUF: name a repo or a folder",
        ),
    ],
)
def test_what_the_far_side_refuses_arrives_as_it_was_said(
    hub: str, repo: Path, tiny: Path, settings: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    rewritten(tiny, repo / NAME, settings)
    assert f"{NAME} of acme/tiny-GGUF on {hub} {sentence}" in refusal(kind, hub)


def test_without_the_train_environment(hub: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    assert refusal(EnvironmentMissing, hub) == (
        f"{NAME} of acme/tiny-GGUF on {hub} is read in the train environment: "
        f"The environment train is not built: run `make env-train` in {tmp_path}."
    )


@pytest.mark.parametrize(
    ("script", "kind", "sentence"),
    [
        ("exec sleep 60", ModelError, "was not described within 1 s: name another file."),
        ("echo it broke >&2; exit 3", StageCrashed, "crashed (exit code 3: it broke)."),
    ],
)
def test_a_description_that_never_comes(
    hub: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, kind: type[Exception], sentence: str
) -> None:
    far_side(tmp_path, monkeypatch, script)
    monkeypatch.setattr(gguf, "_LONGEST_SECONDS", 1.0)
    assert sentence in refusal(kind, hub)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"path": "a/b.gguf", "gguf": "c.gguf"}, "model.path names a GGUF already: leave out model.gguf"),
        ({"repo": "a/b", "gguf": "model.bin"}, "model.gguf 'model.bin' is no GGUF: name a file that ends in .gguf"),
        (
            {"repo": "a/b", "gguf": "m.gguf", "trust_remote_code": True, "revision": "0" * 40},
            "model.trust_remote_code has nothing to run: a GGUF brings no code",
        ),
    ],
)
def test_keys_that_contradict_each_other(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        ModelSpec(**keys)


def test_where_the_model_lies_is_no_part_of_its_identity_but_the_file_is() -> None:
    here = ModelSpec(path="a", gguf="x.gguf")
    assert here.identity() == ModelSpec(path="b", gguf="x.gguf").identity()
    assert here.identity() != ModelSpec(path="a", gguf="y.gguf").identity()
