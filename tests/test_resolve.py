import shutil
from pathlib import Path

import pytest

from tests.data.writing import GOOD, json_lines, parquet
from tests.loopback import loopback_hub, write_model
from tunesmith.artifacts import Resolved
from tunesmith.errors import DataError
from tunesmith.resolve import resolve
from tunesmith.runner import Outcome
from tunesmith.specs.data import DataSpec, HubDataset
from tunesmith.specs.model import ModelSpec
from tunesmith.specs.recipe import Recipe
from tunesmith.specs.train import Lora
from tunesmith.store import Store

CONFIG = '{"architectures": ["LlamaForCausalLM"], "hidden_size": 64}'


def laid_out(folder: Path) -> Path:
    """A folder with a model's files and a data set, as a recipe finds them."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text(CONFIG)
    (folder / "model" / "model.safetensors").write_bytes(bytes(64))
    (folder / "model" / "tokenizer.json").write_text("{}")
    (folder / "model" / "chat_template.jinja").write_text("{{ messages }}")
    json_lines(folder / "train.jsonl", GOOD, GOOD)
    json_lines(folder / "heldout.jsonl", GOOD)
    return folder


def resolved(folder: Path, store: Store, model: str = "model") -> tuple[Resolved, Outcome]:
    recipe = Recipe(
        name="orders",
        model=ModelSpec(path=model),
        data=DataSpec(train="train.jsonl", evaluation="heldout.jsonl"),
        train=Lora(epochs=1),
        folder=str(folder),
    )
    outcome = resolve(recipe, store)
    assert isinstance(outcome.artifact, Resolved)
    return outcome.artifact, outcome


def test_a_recipe_becomes_a_pinned_model_and_a_data_set_in_the_store(tmp_path: Path, store: Store) -> None:
    artifact, outcome = resolved(laid_out(tmp_path / "a"), store)
    assert (outcome.room, outcome.cached) == (f"resolve-{artifact.fingerprint}", False)
    assert {entry.path for entry in artifact.model.files} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert artifact.model.config["hidden_size"] == 64
    assert (artifact.data.num_train, artifact.data.num_evaluation) == (2, 1)
    manifest = store.manifest(outcome.room)
    assert manifest and manifest.parents == (artifact.data.fingerprint,)
    store.verify(artifact.data)


def test_with_nothing_new_it_is_found_done(tmp_path: Path, store: Store) -> None:
    folder = laid_out(tmp_path / "a")
    first, _ = resolved(folder, store)
    again, outcome = resolved(folder, store)
    assert (again, outcome.cached) == (first, True)


def test_new_rows_are_a_new_fingerprint_and_the_model_stays(tmp_path: Path, store: Store) -> None:
    folder = laid_out(tmp_path / "a")
    first, _ = resolved(folder, store)
    json_lines(folder / "train.jsonl", GOOD, GOOD, GOOD)
    again, outcome = resolved(folder, store)
    assert not outcome.cached
    assert again.fingerprint != first.fingerprint
    assert again.model == first.model


def test_a_moved_folder_is_the_same_job_at_its_new_place(tmp_path: Path, store: Store) -> None:
    first, _ = resolved(laid_out(tmp_path / "a"), store)
    shutil.move(tmp_path / "a", tmp_path / "b")
    again, outcome = resolved(tmp_path / "b", store)
    assert (again.fingerprint, outcome.cached) == (first.fingerprint, True)
    assert again.model.path and Path(again.model.path).is_relative_to(tmp_path / "b")


def test_a_bad_row_stops_it_before_anything_is_kept(tmp_path: Path, store: Store) -> None:
    folder = laid_out(tmp_path / "a")
    json_lines(folder / "heldout.jsonl", GOOD, {"messages": GOOD["messages"][:1]})
    with pytest.raises(DataError, match=r"^heldout\.jsonl, line 2: it has no assistant turn"):
        resolved(folder, store)
    assert list(store.root.iterdir()) == []


def offered(folder: Path) -> Path:
    """What a hub offers: a model, and a data set with good rows and bad ones."""
    write_model(folder / "acme" / "tiny")
    rows = folder / "datasets" / "acme" / "orders"
    rows.mkdir(parents=True)
    parquet(rows / "train.parquet", [GOOD, GOOD])
    json_lines(rows / "heldout.jsonl", GOOD)
    json_lines(rows / "bad.jsonl", GOOD, "{")
    return folder


def from_hub(address: str, train: str) -> Recipe:
    return Recipe(
        name="orders",
        model=ModelSpec(repo="acme/tiny", hub=address),
        data=DataSpec(
            train=HubDataset(repo="acme/orders", file=train),
            evaluation=HubDataset(repo="acme/orders", file="heldout.jsonl"),
        ),
        train=Lora(epochs=1),
    )


def test_model_and_data_of_a_hub_are_pinned_wherever_the_hub_is(tmp_path: Path, store: Store, hf_cache: Path) -> None:
    folder = offered(tmp_path / "hub")
    found = []
    for _ in range(2):
        with loopback_hub(folder) as address:
            outcome = resolve(from_hub(address, "train.parquet"), store)
        assert isinstance(outcome.artifact, Resolved)
        assert outcome.artifact.model.endpoint == address
        assert (outcome.artifact.data.num_train, outcome.artifact.data.num_evaluation) == (2, 1)
        found.append(outcome)
    assert [outcome.cached for outcome in found] == [False, True]
    assert found[0].artifact.fingerprint == found[1].artifact.fingerprint


def test_a_bad_row_of_a_hub_data_set_is_named_by_its_repo(tmp_path: Path, store: Store, hf_cache: Path) -> None:
    with (
        loopback_hub(offered(tmp_path / "hub")) as address,
        pytest.raises(DataError, match=r"^acme/orders/bad\.jsonl, line 2: broken JSON"),
    ):
        resolve(from_hub(address, "bad.jsonl"), store)
