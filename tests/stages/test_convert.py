"""Pickles become safetensors with the same tensors; one that would run something runs nothing."""

from pathlib import Path

import pytest

from tests.rooms import finished_snapshot, in_environment
from tunesmith.artifacts import ModelSnapshot
from tunesmith.errors import ModelError
from tunesmith.jobs import ConvertJob
from tunesmith.runner import run
from tunesmith.store import Store

pytestmark = pytest.mark.env("train")

PICKLE = """
import json, shutil, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
source, target, shards = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
shutil.copytree(source, target)
tensors = load_file(target / "model.safetensors")
(target / "model.safetensors").unlink()
tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
names = sorted(tensors)
for number in range(shards):
    name = f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin" if shards > 1 else "pytorch_model.bin"
    torch.save({key: tensors[key] for key in names[number::shards]}, target / name)
(target / "pytorch_model.bin.index.json").write_text("{}")
print(0)
"""
COMPARE = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
before, after = (load_file(Path(sys.argv[1]) / "model.safetensors"), {})
for path in Path(sys.argv[2]).glob("*.safetensors"):
    after |= load_file(path)
same = all(torch.equal(before[name], after[name]) for name in before)
loaded = AutoModelForCausalLM.from_pretrained(sys.argv[2])
print(json.dumps([same, sorted(set(after) - set(before)), loaded.num_parameters() > 0]))
"""
TRAP = """
import sys, torch
from pathlib import Path
class Trap:
    def __reduce__(self):
        return (Path.touch, (Path(sys.argv[2]),))
torch.save({"weight": torch.zeros(2), "trap": Trap()}, sys.argv[1])
print(0)
"""


def convert(store: Store, folder: Path) -> Path:
    artifact = run(ConvertJob(base=finished_snapshot(store, folder)), store).artifact
    assert isinstance(artifact, ModelSnapshot) and artifact.repo == "someone/tiny"
    return store.out(artifact)


@pytest.mark.parametrize("shards", [1, 2])
def test_every_tensor_is_as_it_was(store: Store, tiny_model: Path, tmp_path: Path, shards: int) -> None:
    in_environment("train", PICKLE, str(tiny_model), str(tmp_path / "pickled"), str(shards))
    out = convert(store, tmp_path / "pickled")
    assert not list(out.glob("*.bin*")) and (out / "tokenizer.json").exists()
    assert len(list(out.glob("model*.safetensors"))) == shards
    assert in_environment("train", COMPARE, str(tiny_model), str(out)) == [True, ["lm_head.weight"], True]


def test_a_pickle_that_would_run_something_is_refused_unrun(store: Store, tiny_model: Path, tmp_path: Path) -> None:
    in_environment("train", PICKLE, str(tiny_model), str(tmp_path / "trap"), "1")
    in_environment("train", TRAP, str(tmp_path / "trap/pytorch_model.bin"), str(tmp_path / "sprung"))
    with pytest.raises(ModelError, match=r"pytorch_model\.bin holds more than tensors, or is damaged"):
        convert(store, tmp_path / "trap")
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_that_was_cut_off_is_refused(store: Store, tiny_model: Path, tmp_path: Path) -> None:
    in_environment("train", PICKLE, str(tiny_model), str(tmp_path / "cut"), "1")
    path = tmp_path / "cut/pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="is damaged"):
        convert(store, tmp_path / "cut")
