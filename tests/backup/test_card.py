"""The card holds the figures of the manifests, and parses as a hub parses it."""

import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.backup.runs import SCORES, Past, past_run
from tests.loopback import loopback_hub, write_model
from tunesmith.artifacts import Plan, Resolved
from tunesmith.backup.card import write_card
from tunesmith.backup.license import license_of
from tunesmith.environments import CHECKOUT, lock_hash
from tunesmith.hub.listing import resolve_model
from tunesmith.specs.model import ModelSpec
from tunesmith.store import OUT, Store, sha256

FINISHED = ("train", "merge", "quantize", "evaluate/base", "evaluate/tuned", "evaluate/merged", "evaluate/quantized")


def card_of(past: Past, license: dict[str, str] | None = None) -> ModelCard:
    return ModelCard(write_card(past.recipe, past.store, past.rooms, license or {}))


def rows(card: ModelCard, title: str) -> list[list[str]]:
    """Of the table below a heading."""
    body = card.text.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in body.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def artifact(past: Past, stage: str) -> object:
    manifest = past.store.manifest(past.rooms[stage])
    assert manifest is not None
    return manifest.artifact


def test_the_card_holds_what_the_manifests_say(past: Past) -> None:
    past.make(*FINISHED)
    card = card_of(past, {"license": "apache-2.0"})
    assert card.data.to_dict() == {
        "library_name": "peft",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["tunesmith", "lora"],
    }
    assert {row[0]: float(row[1]) for row in rows(card, "Scores")} == {
        "base": SCORES["snapshot"], "tuned": SCORES["adapter"], "merged": SCORES["merged"], "quantized": SCORES["quantized"],
    }  # fmt: skip
    resolved = artifact(past, "resolve")
    assert isinstance(resolved, Resolved)
    origins = rows(card, "Made from")
    assert origins[0] == ["base model", resolved.model.repo, f"commit `{resolved.model.commit}`"]
    assert origins[1][2] == f"`{resolved.data.fingerprint}`"
    train = past.store.room(past.rooms["data"]) / OUT / "train.jsonl"
    assert ["data file", "train.jsonl", f"sha256 `{sha256(train)}`"] in origins


def test_memory_is_shown_as_predicted_and_as_seen(past: Past) -> None:
    past.make(*FINISHED)
    plan, manifest = artifact(past, "estimate"), past.store.manifest(past.rooms["train"])
    assert isinstance(plan, Plan) and manifest is not None
    row = rows(card_of(past), "Memory")[0]
    assert row[0] == "train"
    shown = [float(cell.removesuffix(" GiB")) * 2**30 for cell in row[1:]]
    assert shown == pytest.approx([plan.interval("train")[1], manifest.peak_bytes_seen], abs=2**30 * 0.006)


def test_the_recipe_comes_back_out_of_the_card_without_where_it_lay(past: Past, tmp_path: Path) -> None:
    text = write_card(past.recipe, past.store, past.rooms, {})
    block = re.search(r"````yaml\n(.*?)````", text, re.DOTALL)
    assert block is not None
    tree = yaml.safe_load(block[1])
    assert tree["train"] == {"method": "lora", "epochs": 1, "batch_size": 4, "max_length": 64}
    assert tree["backup"] == {"to": "hf:me/kept"} and "folder" not in tree
    assert str(tmp_path) not in text


def test_the_versions_are_those_of_the_lock_the_stages_ran_under(past: Past) -> None:
    past.make("train")
    locks = {sha256(path): path for path in (CHECKOUT / "locks").glob("*.txt")}
    known = lock_hash("train")
    assert known in locks
    pinned = dict(line.split("==") for line in locks[known].read_text().splitlines() if "==" in line)
    shown = dict(rows(card_of(past), "Libraries"))
    assert {"torch", "transformers", "peft"} <= set(shown)
    assert all(pinned[name] == version for name, version in shown.items())


def test_a_card_of_a_run_that_has_just_begun_leaves_out_what_is_not_known(past: Past) -> None:
    card = card_of(past)
    assert "## Scores" not in card.text and "## Memory" not in card.text
    assert "Finished so far: nothing yet." in card.text


def test_the_same_manifests_make_the_same_card(past: Past) -> None:
    past.make(*FINISHED)
    assert card_of(past).content == card_of(past).content


@pytest.mark.parametrize(
    ("front", "wanted"),
    [
        ("license: mit", {"license": "mit"}),
        ("license: other\nlicense_name: x\nlicense_link: y", {"license": "other", "license_name": "x", "license_link": "y"}),
        ("license: [mit, x]", {}),
        ("tags: [a]", {}),
        ("license: {", {}),
    ],
)  # fmt: skip
def test_the_license_is_the_one_the_base_names(store: Store, recipe: Path, front: str, wanted: dict[str, str]) -> None:
    (recipe.parent / "model" / "README.md").write_text(f"---\n{front}\n---\n# base\n")
    resolved = artifact(past_run(store, recipe), "resolve")
    assert isinstance(resolved, Resolved)
    assert license_of(resolved.model) == wanted


def test_the_license_of_a_base_is_asked_of_a_hub_among_its_sources(tmp_path: Path, hf_cache: Path) -> None:
    folder = write_model(tmp_path / "hub/acme/tiny")
    card = {"id": "acme/tiny", "sha": "a" * 40, "siblings": [], "cardData": {"license": "mit"}}
    app = Starlette(routes=[Route("/api/models/acme/tiny/revision/v1", lambda _: JSONResponse(card))])
    with loopback_hub(folder, lambda _: app) as hub:
        spec = ModelSpec(repo="acme/tiny", revision="v1", sources=("hub", hub))
        assert license_of(resolve_model(spec, tmp_path)) == {"license": "mit"}
        assert license_of(resolve_model(spec.model_copy(update={"sources": ("hub",)}), tmp_path)) == {}


def test_a_base_on_a_hub_is_named_in_the_front_matter(
    tmp_path: Path, hf_cache: Path, store: Store, recipe: Path
) -> None:
    folder = write_model(tmp_path / "hub/acme/tiny")
    with loopback_hub(folder.parent.parent) as address:
        source = resolve_model(ModelSpec(repo="acme/tiny", hub=address), tmp_path)
        assert license_of(source) == {}
    past = past_run(store, recipe)
    resolved = artifact(past, "resolve")
    assert isinstance(resolved, Resolved)
    named = resolved.model_copy(update={"model": source})
    path = store.room(past.rooms["resolve"]) / "manifest.json"
    manifest = store.manifest(past.rooms["resolve"])
    assert manifest is not None
    path.write_text(manifest.model_copy(update={"artifact": named}).model_dump_json())
    assert card_of(past).data.base_model == "acme/tiny"
