"""A recipe's sources: in which order they are asked, what is the same wherever it comes from, and mistakes."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.writing import GOOD, json_lines
from tests.hub import breakages as b
from tests.hub.content import Content, Held
from tests.hub.downloading import REPO, Heard
from tests.hub.faults import FaultyHub, Rule
from tests.hub.repo import Repo
from tests.loopback import CONFIG, flip_byte, loopback_hub, write_model
from tunesmith.artifacts import Resolved
from tunesmith.errors import CorruptArtifact, DataError, HubUnavailable, ModelError, RecipeError, RepoNotFound
from tunesmith.hub.listing import resolve_model
from tunesmith.hub.transfer.engine import bring
from tunesmith.hub.transfer.patience import Patience
from tunesmith.hub.transfer.sources.folder import Folder
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.hub.transfer.supply import Asked, Pinned, Supply
from tunesmith.jobs import DownloadJob
from tunesmith.resolve import resolve
from tunesmith.specs.data import HubDataset
from tunesmith.specs.load import make_recipe
from tunesmith.specs.model import ModelSpec
from tunesmith.specs.recipe import Recipe
from tunesmith.store import Store, sha256

DEAD = "http://127.0.0.1:9"
QUICK = Patience(tries=3, backoff_s=0.01, owner_s=0.3, beat_s=0.05)


@pytest.fixture
def root(tmp_path: Path, hf_cache: Path) -> Path:
    """What one hub serves, beside nothing in the cache."""
    write_model(tmp_path / "hub/acme/tiny")
    return tmp_path / "hub"


@pytest.fixture
def twin(tmp_path: Path, hf_cache: Path) -> Path:
    """The same model at another commit, as another site has it."""
    write_model(tmp_path / "twin/acme/tiny")
    (tmp_path / "twin/acme/tiny/README.md").write_text("# elsewhere\n")
    return tmp_path / "twin"


@pytest.fixture
def hub(root: Path) -> Iterator[str]:
    with loopback_hub(root) as address:
        yield address


@pytest.fixture
def site(twin: Path) -> Iterator[str]:
    """The other site, by ModelScope's API."""
    with loopback_hub(twin) as address:
        yield f"modelscope={address}"


def spec(*sources: str, **keys: Any) -> ModelSpec:
    return ModelSpec(repo="acme/tiny", sources=sources, **keys)


def recipe(folder: Path, model: dict[str, Any], train: Any = "train.jsonl") -> Recipe:
    json_lines(folder / "train.jsonl", GOOD, GOOD)
    json_lines(folder / "heldout.jsonl", GOOD)
    tree = {
        "name": "orders",
        "model": {"repo": "acme/tiny", **model},
        "data": {"train": train, "evaluation": "heldout.jsonl"},
        "train": {"method": "lora", "epochs": 1},
        "folder": str(folder),
    }
    return make_recipe(tree, {}, "orders.yaml")


def test_the_model_is_the_same_whoever_lists_it(root: Path, hub: str, site: str, twin: Path, tmp_path: Path) -> None:
    """Other commits, other digests for small files, another address: one fingerprint."""
    store, found = Store(tmp_path / "store").open(), []
    lists = [hub, site], [site, hub], [site], [str(twin)], [str(root / "acme/tiny"), hub]
    for model in [*({"sources": one} for one in lists), {"hub": hub}]:
        shutil.rmtree(tmp_path / "hf-cache", ignore_errors=True)
        outcome = resolve(recipe(tmp_path, model), store)
        assert isinstance(outcome.artifact, Resolved)
        found.append(outcome.artifact)
    assert len({resolved.model.commit for resolved in found}) >= 3
    assert [resolved.model.endpoint for resolved in found[:4]] == [hub, site, site, str(twin)]
    assert len({resolved.fingerprint for resolved in found}) == 1
    assert len({DownloadJob(source=resolved.model).room_name for resolved in found}) == 1


def test_another_small_file_of_the_same_size_is_another_model(root: Path, tmp_path: Path) -> None:
    with loopback_hub(root) as hub:
        before = resolve_model(spec(hub), tmp_path)
    (root / "acme/tiny/tokenizer.json").write_text("[]")
    with loopback_hub(root) as hub:
        after = resolve_model(spec(hub), tmp_path)
    assert before.identity() != after.identity()
    assert [entry.size for entry in before.files] == [entry.size for entry in after.files]


def test_the_first_source_is_down(site: str, twin: Path, tmp_path: Path) -> None:
    heard = Heard()
    source = resolve_model(spec(DEAD, site), tmp_path, heard)
    assert (source.endpoint, source.sources) == (site, (DEAD, site))
    assert {entry.sha256 for entry in source.files} >= {sha256(twin / "acme/tiny/model.safetensors")}
    (note,) = heard.notes
    assert note.startswith(f"The hub {DEAD} did not answer") and note.endswith("Going on with the next source.")


def test_all_sources_are_down(tmp_path: Path, hf_cache: Path) -> None:
    with pytest.raises(HubUnavailable, match=f"The hub {DEAD} did not answer"):
        resolve_model(spec(DEAD, f"modelscope={DEAD}"), tmp_path)


def test_a_small_file_that_the_first_lists_alone_must_be_the_same_elsewhere(
    root: Path, site: str, tmp_path: Path
) -> None:
    """The hub lists it by git's id, the site by its sha256: what arrives from there is held to the id."""
    folder = root / "acme/tiny"
    files: dict[str, Content] = {path.name: Held(path.read_bytes()) for path in folder.iterdir()}
    with FaultyHub({REPO: Repo(files)}, Rule("resolve", b.status(404), path="tokenizer.json")) as hub:
        source = resolve_model(spec(hub.address, site), tmp_path)
        assert {entry.path: entry.sha256 for entry in source.files} == {name: files[name].sha256 for name in files}
    shutil.rmtree(tmp_path / "hf-cache")
    other = {**files, "tokenizer.json": Held(b"[]")}
    with (
        FaultyHub({REPO: Repo(other)}, Rule("resolve", b.status(404), path="tokenizer.json")) as hub,
        pytest.raises(CorruptArtifact, match=rf"tokenizer\.json of .* from what {hub.address} lists"),
    ):
        resolve_model(spec(hub.address, site), tmp_path)
    assert not list((tmp_path / "hf-cache").rglob("tokenizer.json"))


def test_a_small_file_that_nobody_names_is_taken_from_its_own_commit_alone(
    root: Path, site: str, tmp_path: Path
) -> None:
    files: dict[str, Content] = {path.name: Held(path.read_bytes()) for path in (root / "acme/tiny").iterdir()}
    repo = Repo(files)
    repo.claim = lambda rows: [{name: row[name] for name in row if name != "blobId"} for row in rows]
    with FaultyHub({REPO: repo}) as hub:
        assert resolve_model(spec(hub.address), tmp_path).files[2].sha256 == files["tokenizer.json"].sha256
        shutil.rmtree(tmp_path / "hf-cache")
        hub.add(Rule("resolve", b.status(404), path="tokenizer.json"))
        with pytest.raises(ModelError, match=f"{hub.address} lists files of acme/tiny that it does not serve"):
            resolve_model(spec(hub.address, site), tmp_path)
    assert not list((tmp_path / "hf-cache").rglob("tokenizer.json"))


def test_a_file_that_another_hub_names_otherwise_is_not_even_asked_for(root: Path, tmp_path: Path) -> None:
    files: dict[str, Content] = {path.name: Held(path.read_bytes()) for path in (root / "acme/tiny").iterdir()}
    gone = Rule("resolve", b.status(404), path="tokenizer.json")
    other = Repo({**files, "tokenizer.json": Held(b"[]")})
    with FaultyHub({REPO: Repo(files)}, gone) as first, FaultyHub({REPO: other}) as second:
        with pytest.raises(ModelError, match=f"{first.address} lists files of acme/tiny that it does not serve"):
            resolve_model(spec(first.address, second.address), tmp_path)
        assert second.requests("info") and not second.requests("resolve")


def test_who_has_no_list_is_not_asked_for_it_once_a_file(root: Path, hf_cache: Path) -> None:
    heard, folder = Heard(), Folder(root)
    with FaultyHub({}) as empty:
        supply = Supply([HuggingFace(empty.address), folder], Asked(REPO, "main", "model"), QUICK)
        pinned = Pinned(supply.listed, 1)
        asked = len(empty.requests())
        supply = Supply([HuggingFace(empty.address), folder], Asked(REPO, "main", "model"), QUICK, pinned)
        assert bring(supply, supply.listed.files, hf_cache, report=heard, patience=QUICK).sources == (folder.name,)
        assert len(empty.requests()) == asked + 2, "at the commit, and at main"
    assert len(heard.notes) == 1


def test_damage_in_the_cache_is_not_taken_for_the_model(hub: str, hf_cache: Path, tmp_path: Path) -> None:
    source, heard = resolve_model(spec(hub), tmp_path), Heard()
    (tokenizer,) = hf_cache.rglob("snapshots/*/tokenizer.json")
    flip_byte(tokenizer.resolve())
    assert resolve_model(spec(hub), tmp_path, heard) == source
    assert heard.notes == ["tokenizer.json does not match its listed size or sha256: thrown away."]


def test_a_folder_starts_at_the_recipe(root: Path, tmp_path: Path) -> None:
    for word in ("hub/acme/tiny", "./hub"):
        source = resolve_model(spec(word), tmp_path)
        assert source.sources == (str((tmp_path / word).resolve()),) and source.config == CONFIG


def test_code_comes_from_the_commit_that_was_named(root: Path, twin: Path, tmp_path: Path) -> None:
    """Whatever stands before the hub that has it: its files may come from there, its list may not."""
    with loopback_hub(root) as hub, loopback_hub(twin) as other:
        commit = resolve_model(spec(hub), tmp_path).commit
        trusted = {"revision": commit, "trust_remote_code": True}
        source = resolve_model(spec(str(twin), f"modelscope={other}", hub, **trusted), tmp_path)
        assert (source.commit, source.endpoint) == (commit, hub)
        with pytest.raises(ModelError, match=rf"acme/tiny on {twin} is at .*, not at {commit}: its code is not run\."):
            resolve_model(spec(str(twin), f"modelscope={other}", **trusted), tmp_path)
        with pytest.raises(RepoNotFound, match="with a revision"):
            resolve_model(spec(f"modelscope={other}", **trusted), tmp_path)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"sources": []}, "model.sources: the list is empty: name hf, modelscope, the URL of a hub or a folder"),
        ({"sources": "modelscope"}, r"model\.sources: it is a list: write \[modelscope\]"),
        ({"sources": [7]}, r"model\.sources.*should be a valid string"),
        ({"sources": 7}, r"model\.sources.*should be a valid tuple"),
        ({"sources": ["hf"], "hub": "https://x.example"}, "give model.hub or model.sources, not both"),
        ({"source": ["hf"]}, "model.source: unknown key; did you mean sources"),
    ],
)
def test_mistakes_that_the_recipe_shows(tmp_path: Path, model: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence) as caught:
        recipe(tmp_path, model)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("hugginface", "'hugginface' in model.sources is no source: name hf, modelscope, the URL of a hub"),
        ("ftp://x.example", "'ftp://x.example' in model.sources is no source"),
        ("", "'' in model.sources is no source"),
        ("modelscope=x.example", "The ModelScope address x.example is no URL"),
        (
            "./nowhere",
            "There is no folder .*nowhere: check model.sources, where relative paths start at the recipe's own",
        ),
        ("/nowhere/at/all", "There is no folder /nowhere/at/all: check model.sources"),
    ],
)
def test_mistakes_in_a_word(tmp_path: Path, word: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        resolve_model(spec("hf", word), tmp_path)


def offered(folder: Path) -> Path:
    """A data set below what a hub serves."""
    (folder / "datasets/acme/orders").mkdir(parents=True)
    json_lines(folder / "datasets/acme/orders/train.jsonl", GOOD, GOOD)
    return folder


def test_a_data_set_has_sources_of_its_own(hub: str, twin: Path, tmp_path: Path, store: Store) -> None:
    offered(twin)
    rows = {"repo": "acme/orders", "file": "train.jsonl"}
    with loopback_hub(twin) as other:
        found = [
            resolve(recipe(tmp_path, {"sources": [hub]}, rows | {"sources": sources}), store).artifact.fingerprint
            for sources in ([DEAD, other], [f"modelscope={other}"], ["twin"], ["./twin/datasets/acme/orders"])
        ]
    assert len(set(found)) == 1
    with pytest.raises(ModelError, match=r"'x' in the sources of acme/orders is no source"):
        resolve(recipe(tmp_path, {"sources": [hub]}, rows | {"sources": ["x"]}), store)


def test_else_a_data_set_comes_from_where_the_model_does(root: Path, hub: str, tmp_path: Path, store: Store) -> None:
    rows = {"repo": "acme/orders", "file": "train.jsonl"}
    with pytest.raises(RepoNotFound, match=f"no dataset repo acme/orders on {hub}"):
        resolve(recipe(tmp_path, {"sources": ["hub/acme/tiny", hub]}, rows), store)
    offered(root)
    for sources in (["hub/acme/tiny", hub], ["hub"]):
        assert isinstance(resolve(recipe(tmp_path, {"sources": sources}, rows), store).artifact, Resolved)
    with pytest.raises(DataError, match=r"has no file other\.jsonl"):
        resolve(recipe(tmp_path, {"sources": ["hub"]}, rows | {"file": "other.jsonl"}), store)


def test_where_it_comes_from_is_not_in_a_data_sets_fingerprint() -> None:
    one, other = (HubDataset(repo="a/b", file="x.jsonl", sources=(word,)) for word in ("hf", "modelscope"))
    assert one.identity() == other.identity()
