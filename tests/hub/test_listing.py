"""A recipe's model is pinned from kilobytes, and every way it can be unusable has its own sentence."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import snapshot_download
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from tests.loopback import CONFIG, loopback_hub, safetensors, write_model
from tunesmith.artifacts import ModelSource
from tunesmith.errors import GatedRepo, HubUnavailable, ModelError, NoChatTemplate, OnlyPickles, RepoNotFound, TryAgain
from tunesmith.hub.listing import resolve_model
from tunesmith.hub.names import fault_of_path
from tunesmith.specs.model import ModelSpec
from tunesmith.store import sha256


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return write_model(tmp_path / "hub/acme/tiny")


@pytest.fixture
def hub(repo: Path, hf_cache: Path) -> Iterator[str]:
    with loopback_hub(repo.parent.parent) as address:
        yield address


def resolve(hub: str, repo: str = "acme/tiny", revision: str = "main") -> ModelSource:
    return resolve_model(ModelSpec(repo=repo, revision=revision, hub=hub), Path())


def refusal(kind: type[Exception], ask: Callable[[], Any]) -> str:
    with pytest.raises(kind) as caught:
        ask()
    message = str(caught.value)
    assert type(caught.value) is kind and "\n" not in message
    return message


def test_a_repo_is_pinned_and_its_files_chosen(hub: str, repo: Path, hf_cache: Path) -> None:
    for name in ("README.md", "modeling_tiny.py", "pytorch_model.bin", "model.fp16.safetensors", "tiny.gguf"):
        (repo / name).write_text("x")
    for name in ("original/model.safetensors", "onnx/config.json"):
        (repo / name).parent.mkdir()
        (repo / name).write_text("{}")
    source = resolve(hub)
    chosen = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert [entry.path for entry in source.files] == chosen
    assert source.config == CONFIG and source.endpoint == hub and len(source.commit) == 40
    for entry in source.files:
        assert (entry.size, entry.sha256) == ((repo / entry.path).stat().st_size, sha256(repo / entry.path))
    assert resolve(hub, revision=source.commit).files == source.files
    assert not list(hf_cache.rglob("*.safetensors")), "resolving downloads no weights"


def test_shards_come_with_their_index(hub: str, repo: Path) -> None:
    (repo / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name in names:
        (repo / name).write_bytes(safetensors(10))
    (repo / "model.safetensors.index.json").write_text("{}")
    assert {*names, "model.safetensors.index.json"} <= {entry.path for entry in resolve(hub).files}
    (repo / names[1]).unlink()
    message = refusal(ModelError, lambda: resolve(hub))
    assert message == f"acme/tiny on {hub} lacks {names[1]} (1 missing): name a revision that is complete."


def test_metadata_alone_is_enough(hub: str, repo: Path) -> None:
    big = write_model(repo.parent / "big")
    (big / "model.safetensors").unlink()
    row = {"path": "model.safetensors", "size": 15_000_000_000, "sha256": "b" * 64, "metadata_only": True}
    (big / ".listing.json").write_text(json.dumps({"files": [row]}))
    assert resolve(hub, "acme/big").total_bytes > 15_000_000_000


def test_default_hub_is_hf_endpoint(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub + "/")
    assert resolve_model(ModelSpec(repo="acme/tiny"), Path()).endpoint == hub


def test_no_such_repo(hub: str) -> None:
    message = refusal(RepoNotFound, lambda: resolve(hub, "acme/tyni"))
    assert message == (
        f"There is no model repo acme/tyni on {hub}: check the spelling, or set HF_TOKEN when it is a private one."
    )
    assert refusal(RepoNotFound, lambda: resolve(hub, "acme tiny")) == (
        "'acme tiny' is no model repo's name: write it as owner/name."
    )


def test_no_such_revision(hub: str) -> None:
    assert refusal(RepoNotFound, lambda: resolve(hub, revision="v9")) == (
        f"acme/tiny on {hub} has no revision v9: check the spelling, or use main."
    )
    assert "is no revision" in refusal(RepoNotFound, lambda: resolve(hub, revision="../../x"))


def test_gated(hub: str, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repo / ".gated").write_text("open-sesame")
    monkeypatch.setenv("HF_ENDPOINT", hub)
    assert refusal(GatedRepo, lambda: resolve(hub)) == (
        f"acme/tiny is gated on {hub}: accept its terms at {hub}/acme/tiny and set HF_TOKEN to a token of that account."
    )
    monkeypatch.setenv("HF_TOKEN", "guess")
    assert "the token in HF_TOKEN has no access" in refusal(GatedRepo, lambda: resolve(hub))
    monkeypatch.setenv("HF_TOKEN", "open-sesame")
    assert resolve(hub).config == CONFIG


def test_the_token_is_not_sent_to_a_hub_only_the_recipe_names(
    hub: str, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repo / ".gated").write_text("open-sesame")
    monkeypatch.setenv("HF_TOKEN", "open-sesame")
    message = refusal(GatedRepo, lambda: resolve(hub))
    assert message.endswith(f"then set HF_TOKEN, and HF_ENDPOINT={hub}, which the token is for.")


def test_only_pickles(hub: str, repo: Path) -> None:
    (repo / "model.safetensors").rename(repo / "pytorch_model.bin")
    assert refusal(OnlyPickles, lambda: resolve(hub)) == (
        f"acme/tiny on {hub} holds its weights only as pickles, which can run code when loaded: "
        "name a revision or a repo with safetensors, or set model.allow_pickles to have their tensors read, and no more."
    )


def test_no_weights_or_an_adapter(hub: str, repo: Path) -> None:
    (repo / "model.safetensors").unlink()
    assert refusal(ModelError, lambda: resolve(hub)) == (
        f"acme/tiny on {hub} holds no weights (model.safetensors, or shards and their index): "
        "check that it is a model repo."
    )
    (repo / "adapter_model.safetensors").write_bytes(safetensors(8))
    assert "holds an adapter, not a model: name the base model" in refusal(ModelError, lambda: resolve(hub))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no config.json: name a repo that holds a whole transformers model."),
        ("{broken", "is not valid JSON (Expecting property name"),
        ("[1]", "is not a JSON object: use another revision or mend it."),
    ],
)
def test_config_missing_or_broken(hub: str, repo: Path, content: str | None, message: str) -> None:
    (repo / "config.json").unlink()
    if content:
        (repo / "config.json").write_text(content)
    assert message in refusal(ModelError, lambda: resolve(hub))


def test_no_tokenizer(hub: str, repo: Path) -> None:
    (repo / "tokenizer.json").unlink()
    assert "has no tokenizer: name a repo" in refusal(ModelError, lambda: resolve(hub))


def test_no_chat_template(hub: str, repo: Path) -> None:
    (repo / "tokenizer_config.json").write_text("{}")
    assert refusal(NoChatTemplate, lambda: resolve(hub)) == (
        f"acme/tiny on {hub} has no chat template: use the instruction-tuned version of the model, "
        "or put a chat_template.jinja beside its tokenizer."
    )
    (repo / "chat_template.jinja").write_text("{{ messages }}")
    assert "chat_template.jinja" in {entry.path for entry in resolve(hub).files}


def test_nobody_answers(hf_cache: Path) -> None:
    message = refusal(HubUnavailable, lambda: resolve("http://127.0.0.1:9"))
    assert message.startswith(
        "The hub http://127.0.0.1:9 did not answer or broke off (ConnectError): check the network"
    )
    assert issubclass(HubUnavailable, TryAgain)
    assert "is no URL: write it as https://host" in refusal(ModelError, lambda: resolve("huggingface.co"))


@pytest.mark.parametrize(("status", "kind"), [(503, HubUnavailable), (429, HubUnavailable), (418, ModelError)])
def test_a_hub_that_answers_with_an_error(repo: Path, hf_cache: Path, status: int, kind: type[Exception]) -> None:
    def broken(_: Any) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", lambda _: PlainTextResponse("no", status))])

    with loopback_hub(repo.parent.parent, broken) as hub:
        assert f"(status {status})" in refusal(kind, lambda: resolve(hub))


def answering(**changes: Any) -> Callable[[Any], Starlette]:
    """A hub whose model_info is what a hostile or foreign one might say."""

    def info(_: Request) -> JSONResponse:
        files = [{"rfilename": "config.json", "size": 2}]
        return JSONResponse({"id": "acme/tiny", "sha": "a" * 40, "siblings": files} | changes)

    return lambda _: Starlette(routes=[Route("/{path:path}", info)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha": "../../../etc"}, "gave '../../../etc' for a commit, not 40 hex digits"),
        ({"sha": None}, "gave None for a commit"),
        (
            {"siblings": [{"rfilename": "../../x.json", "size": 1}]},
            "a file whose name has an empty part, . or .. in it",
        ),
        ({"siblings": [{"rfilename": "/etc/x.json", "size": 1}]}, "a file whose name is absolute"),
        ({"siblings": [{"rfilename": "a\\b", "size": 1}]}, "a file whose name holds a backslash"),
        ({"siblings": [{"rfilename": "config.json"}]}, "lists no size for config.json"),
        (
            {"siblings": [{"rfilename": "a", "size": 1, "lfs": {"size": 1, "sha256": "../up", "pointerSize": 1}}]},
            "lists '../up' as the sha256 of a",
        ),
        ({"siblings": [{"size": 1}]}, "does not answer like a Hugging Face hub: check model.hub and HF_ENDPOINT."),
    ],
)
def test_what_a_hub_says_is_checked(repo: Path, hf_cache: Path, changes: dict[str, Any], message: str) -> None:
    with loopback_hub(repo.parent.parent, answering(**changes)) as hub:
        assert message in refusal(ModelError, lambda: resolve(hub))
    assert not list(hf_cache.rglob("refs/*"))


@pytest.mark.parametrize("path", ["a", "a/b.json", ".gitattributes", "a..b", "ü/ß.json"])
def test_ordinary_names_pass(path: str) -> None:
    assert fault_of_path(path) is None


@pytest.mark.parametrize("path", ["", "/a", "a//b", "a/", "./a", "a/../b", "..", "a\0b", "a\nb", "C:/x", "a\\b"])
def test_names_that_leave_the_folder_do_not(path: str) -> None:
    assert fault_of_path(path) is not None


OFFLINE = """
import sys
from pathlib import Path
from tunesmith.errors import TunesmithError
from tunesmith.hub.listing import resolve_model
from tunesmith.specs.model import ModelSpec
try:
    print(resolve_model(ModelSpec(repo="acme/tiny", hub=sys.argv[1]), Path()).model_dump_json())
except TunesmithError as error:
    print(type(error).__name__, error)
"""


def test_offline_resolves_from_the_cache(hub: str, hf_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = resolve(hub)
    # A process of its own: huggingface_hub reads the variable when it is imported.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = [sys.executable, "-c", OFFLINE, hub]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"ModelError HF_HUB_OFFLINE is set and the cache {hf_cache} does not hold all of acme/tiny")
    snapshot_download("acme/tiny", endpoint=hub, revision=source.commit)
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert ModelSource.model_validate_json(said) == source


def test_a_folder_is_pinned_by_its_content(tmp_path: Path) -> None:
    source = resolve_model(ModelSpec(path="models/here"), write_model(tmp_path / "models/here").parent.parent)
    moved = resolve_model(ModelSpec(path=str(write_model(tmp_path / "elsewhere/there"))), tmp_path)
    assert source.identity() == moved.identity() and source.path != moved.path
    assert all(entry.sha256 == sha256(tmp_path / "models/here" / entry.path) for entry in source.files)
    (tmp_path / "models/here/model.safetensors").write_bytes(safetensors(4096, seed=1))
    changed = resolve_model(ModelSpec(path="models/here"), tmp_path)
    assert changed.commit != source.commit and changed.endpoint is None


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(ModelError, lambda: resolve_model(ModelSpec(path="models/here"), tmp_path)) == (
        f"There is no folder {tmp_path / 'models/here'}: check model.path, which starts at the recipe's own folder."
    )
