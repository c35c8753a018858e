"""A repo's own code comes along at a commit only, and its pickles only, where the recipe says so; planning runs nothing."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.loopback import CONFIG, TOKENIZER_CONFIG, loopback_hub, write_model
from tests.recipes import tiny_recipe
from tunesmith import forecast
from tunesmith.artifacts import ModelSource
from tunesmith.errors import ModelError, OnlyPickles, RecipeError
from tunesmith.hub.listing import resolve_model
from tunesmith.specs.load import load_recipe
from tunesmith.specs.model import ModelSpec
from tunesmith.store import Store

MAP = {"AutoModelForCausalLM": "modeling_own.Own"}
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "hub/acme/own")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "auto_map": MAP}))
    (folder / "modeling_own.py").write_text("raise SystemExit('this was run')")
    return folder


@pytest.fixture
def hub(repo: Path, hf_cache: Path) -> Iterator[str]:
    with loopback_hub(repo.parent.parent) as address:
        yield address


def resolve(hub: str, **keys: Any) -> ModelSource:
    return resolve_model(ModelSpec(repo="acme/own", hub=hub, **keys), Path())


def test_without_a_word_no_code_comes_along_and_the_model_is_planned(hub: str) -> None:
    source = resolve(hub)
    assert [entry.path for entry in source.files if entry.path.endswith(".py")] == []
    assert source.config["auto_map"] == MAP
    assert "modeling_own" not in sys.modules


def test_with_it_the_code_is_part_of_what_is_downloaded_and_of_the_fingerprint(hub: str) -> None:
    plain = resolve(hub)
    trusted = resolve(hub, revision=plain.commit, trust_remote_code=True)
    assert {entry.path for entry in trusted.files} - {entry.path for entry in plain.files} == {"modeling_own.py"}
    assert trusted.identity() != plain.identity()


@pytest.mark.parametrize("revision", ["main", "v1", COMMIT[:39], COMMIT.upper()])
def test_code_that_may_move_is_not_trusted(revision: str) -> None:
    with pytest.raises(ValidationError, match=r"set model\.revision to the commit you have read, 40 hex digits"):
        ModelSpec(repo="acme/own", revision=revision, trust_remote_code=True)


def test_the_refusal_is_one_sentence_of_the_recipe(tmp_path: Path) -> None:
    tree = {"model": {"repo": "a/b", "trust_remote_code": True}, "name": "x"}
    (tmp_path / "x.yaml").write_text(json.dumps(tree))
    with pytest.raises(RecipeError, match=r"x\.yaml: model: model\.trust_remote_code runs the repo's own code"):
        load_recipe(str(tmp_path / "x.yaml"))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_yet_another_repo_is_refused(hub: str, repo: Path, file: str) -> None:
    kept = {"config.json": {**CONFIG, "auto_map": MAP}, "tokenizer_config.json": TOKENIZER_CONFIG}[file]
    (repo / file).write_text(json.dumps({**kept, "auto_map": {"AutoConfig": "evil/repo--code.Config"}}))
    commit = resolve(hub).commit
    with pytest.raises(ModelError, match=r"runs code of another repo .*evil/repo--code\.Config"):
        resolve(hub, revision=commit, trust_remote_code=True)


def test_a_folder_is_asked_the_same(repo: Path) -> None:
    plain = resolve_model(ModelSpec(path=str(repo)), Path())
    trusted = resolve_model(ModelSpec(path=str(repo), revision=COMMIT, trust_remote_code=True), Path())
    assert len(trusted.files) == len(plain.files) + 1


def test_pickles_beside_safetensors_are_left_where_they_are(hub: str, repo: Path) -> None:
    (repo / "pytorch_model.bin").write_bytes(b"x" * 10)
    assert "pytorch_model.bin" not in {entry.path for entry in resolve(hub).files}
    (repo / "model.safetensors").unlink()
    with pytest.raises(OnlyPickles):
        resolve(hub)


@pytest.mark.parametrize("shards", [1, 3])
def test_pickles_that_are_allowed_are_planned_with_their_conversion(
    repo: Path, hub: str, store: Store, tmp_path: Path, shards: int
) -> None:
    weights = (repo / "model.safetensors").read_bytes()
    (repo / "model.safetensors").unlink()
    names = (
        [f"pytorch_model-{n:05d}-of-{shards:05d}.bin" for n in range(1, shards + 1)]
        if shards > 1
        else ["pytorch_model.bin"]
    )
    index = ["pytorch_model.bin.index.json"] if shards > 1 else []
    for name in [*names, *index]:
        (repo / name).write_bytes(weights)
    source = resolve(hub, allow_pickles=True)
    assert {entry.path for entry in source.files} >= {*names, *index}
    (repo / names[-1]).unlink()
    if shards > 1:
        with pytest.raises(ModelError, match=rf"lacks {names[-1]} \(1 missing\)"):
            resolve(hub, allow_pickles=True)


def test_safetensors_are_preferred_to_allowed_pickles(hub: str, repo: Path) -> None:
    (repo / "pytorch_model.bin").write_bytes(b"x" * 10)
    assert resolve(hub, allow_pickles=True).identity() == resolve(hub).identity()


def test_the_conversion_stands_between_download_and_training(tmp_path: Path, store: Store) -> None:
    path = tiny_recipe(tmp_path)
    plain = [job["stage"] for job in forecast.plan(load_recipe(str(path)), store).jobs]
    (tmp_path / "model/model.safetensors").rename(tmp_path / "model/pytorch_model.bin")
    jobs = forecast.plan(load_recipe(str(path), {"model.allow_pickles": True}), store).jobs
    assert [job["stage"] for job in jobs] == [plain[0], "download/convert", *plain[1:]]
    assert len({job["fingerprint"] for job in jobs}) == len(jobs)
