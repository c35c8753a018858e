"""A model's own Python runs when the recipe said so, and never otherwise."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.rooms import finished_snapshot, in_environment
from tunesmith.store import Store

pytestmark = pytest.mark.env("train")

CODE = """
import pathlib
pathlib.Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
LOAD = """
import json, sys
from pathlib import Path
from tunesmith.artifacts import ModelSnapshot
from tunesmith.stages.chat import load_tokenizer
from tunesmith.stages.evaluate.candidates import load_candidate
from tunesmith.store import Store
store = Store(Path(sys.argv[1]))
snapshot = ModelSnapshot.model_validate_json(sys.argv[2])
try:
    load_tokenizer(store.out(snapshot))
    print(json.dumps(type(load_candidate(snapshot, store, "cpu")).__name__))
except Exception as error:
    print(json.dumps(f"refused: {error}"))
"""


def load(store: Store, tiny_model: Path, folder: Path, own_type: bool, with_code: bool) -> tuple[Any, bool]:
    """What class the model was loaded as, and whether its own code was run."""
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own" if own_type else "llama"}))
    mark = folder.with_name("mark")
    if with_code:
        (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    snapshot = finished_snapshot(store, folder)
    return in_environment("train", LOAD, str(store.root), snapshot.model_dump_json()), mark.exists()


@pytest.mark.parametrize(
    ("own_type", "with_code", "wanted", "ran"),
    [(False, False, "LlamaForCausalLM", False), (True, True, "OwnModel", True), (True, False, "refused", False)],
    ids=["known", "trusted", "untrusted"],
)
def test_code_runs_only_where_it_was_let_into_the_store(
    store: Store, tiny_model: Path, tmp_path: Path, own_type: bool, with_code: bool, wanted: str, ran: bool
) -> None:
    loaded, has_run = load(store, tiny_model, tmp_path / "own", own_type, with_code)
    assert loaded.startswith(wanted)
    assert has_run == ran
