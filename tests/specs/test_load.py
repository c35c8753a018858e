"""Reading recipes: what is accepted, and the sentence for each mistake."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import RecipeError
from tunesmith.specs.load import load_recipe, parse_overrides
from tunesmith.specs.recipe import Recipe
from tunesmith.specs.spec import fingerprint

GOOD: dict[str, Any] = {
    "name": "x",
    "model": {"repo": "a/b"},
    "data": {"train": "t.jsonl", "evaluation": "e.jsonl"},
    "train": {"method": "lora", "epochs": 1},
}


def write(folder: Path, tree: Any) -> str:
    path = folder / "x.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return str(path)


def refused(folder: Path, tree: Any, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, tree), overrides)
    assert caught.value.exit_code == 78
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_good_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.train.rank == 16
    assert recipe.folder == str(tmp_path.resolve())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"evalute": {}}, "evalute: unknown key; did you mean evaluate?"),
        ({"train.batch_sise": 4}, "train.batch_sise: unknown key; did you mean batch_size?"),
        ({"quantize": {"method": "gptq", "calibration": {"rws": 1}}}, "quantize.calibration.rws: unknown key; did you mean rows?"),
        ({"evaluate.gate.min_scor": 1}, "evaluate.gate.min_scor: unknown key; did you mean min_score?"),
        ({"serve.zzz": 1}, "serve.zzz: unknown key; known keys: engine, host, port"),
        ({"train.epochs": "two"}, "train.epochs: Input should be a valid number, unable to parse string as a number (got 'two')"),
        ({"train.rank": 0}, "train.rank: Input should be greater than or equal to 1 (got 0)"),
        ({"train.method": "lra"}, "train: Input tag 'lra' found using 'method' does not match any of the expected tags: 'lora'"),
        ({"train.max_steps": 5}, "train: give exactly one of train.epochs and train.max_steps"),
        ({"model.path": "here"}, "model: give exactly one of model.repo and model.path"),
        ({"train.micro_batch_size": 3}, "train.batch_size 16 is not a multiple of train.micro_batch_size 3"),
        ({"serve.host": "0.0.0.0"}, "name the variable that holds the API key in serve.api_key_env"),
        ({"data": None}, "data: Input should be a valid dictionary"),
        ({"name": "My Model"}, "name: String should match pattern"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_each_mistake_has_its_sentence(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    assert sentence in refused(tmp_path, GOOD, change)


def test_several_mistakes_are_all_named(tmp_path: Path) -> None:
    message = refused(tmp_path, GOOD, {"train.rnk": 1, "serve.prt": 2})
    assert "did you mean rank?" in message
    assert "did you mean port?" in message


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert "data: Field required" in refused(tmp_path, {k: v for k, v in GOOD.items() if k != "data"})


def test_broken_yaml_says_where(tmp_path: Path) -> None:
    message = refused(tmp_path, "name: [x\nmodel: {")
    assert "is not valid YAML" in message
    assert "line" in message


def test_a_list_is_no_recipe(tmp_path: Path) -> None:
    assert "holds no recipe" in refused(tmp_path, ["a"])


def test_the_folder_is_not_the_users_to_set(tmp_path: Path) -> None:
    assert "folder: unknown key" in refused(tmp_path, {**GOOD, "folder": "/tmp"})


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean smollm2"):
        load_recipe("smollm")


def test_overrides_are_read_as_yaml() -> None:
    assert parse_overrides(["train.epochs=1", "serve.host=::1", "train.max_steps=null", "a=[1, 2]"]) == {
        "train.epochs": 1,
        "serve.host": "::1",
        "train.max_steps": None,
        "a": [1, 2],
    }
    with pytest.raises(RecipeError, match="write it as key=value"):
        parse_overrides(["train.epochs"])


def test_an_override_makes_the_parents_it_needs(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD), {"evaluate.gate.min_score": 0.5})
    assert recipe.evaluate.gate.min_score == 0.5


@given(st.permutations(list(GOOD)))
def test_key_order_changes_no_fingerprint(order: list[str]) -> None:
    assert fingerprint(Recipe(**{k: GOOD[k] for k in order})) == fingerprint(Recipe(**GOOD))


def test_where_a_file_lies_changes_no_fingerprint_but_what_is_asked_does() -> None:
    base = Recipe(**GOOD)
    moved = base.model_copy(update={"folder": "/elsewhere"})
    asked = base.model_copy(update={"train": base.train.model_copy(update={"seed": 1})})
    assert fingerprint(base) == fingerprint(moved)
    assert fingerprint(base) != fingerprint(asked)
