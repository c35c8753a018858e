"""`tunesmith download` and `tunesmith verify`, as a person or a script calls them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub.content import MadeUp
from tests.hub.faults import FaultyHub
from tests.hub.repo import tiny_repo
from tests.loopback import flip_byte, loopback_hub, write_model
from tunesmith.errors import ModelError
from tunesmith.hub.transfer.command import parse_target
from tunesmith.hub.transfer.report import Progress, describe
from tunesmith.hub.transfer.sources.folder import Folder
from tunesmith.hub.transfer.sources.huggingface import HuggingFace
from tunesmith.hub.transfer.sources.modelscope import ModelScope
from tunesmith.hub.transfer.sources.words import parse_source


def tunesmith(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunesmith.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


@pytest.fixture
def root(tmp_path: Path, hf_cache: Path) -> Path:
    write_model(tmp_path / "hub/acme/tiny", weight_bytes=3_000_000)
    return tmp_path / "hub"


def test_download_then_verify(root: Path, hf_cache: Path) -> None:
    with loopback_hub(root) as hub:
        done = tunesmith("download", "acme/tiny@main", "--json", HF_ENDPOINT=hub)
        said = tunesmith("download", "acme/tiny", "--include", "*.json", HF_ENDPOINT=hub)
    facts = json.loads(done.stdout)
    assert done.returncode == 0 and list(facts) == [
        "path", "commit", "bytes_total", "bytes_received", "bytes_reused", "seconds", "sources", "verified"
    ]  # fmt: skip
    assert said.stdout.strip() == facts["path"] and "0.0 MB received" in said.stderr
    good = tunesmith("verify", "acme/tiny")
    assert (good.returncode, good.stdout) == (0, "4 of 4 files are right.\n")
    flip_byte(Path(facts["path"], "model.safetensors").resolve())
    bad = tunesmith("verify", f"acme/tiny@{facts['commit']}", "--json", HF_HUB_OFFLINE="1")
    assert bad.returncode == 1 and json.loads(bad.stdout)["wrong"] == ["model.safetensors"]


def test_the_hub_is_asked_for_nothing_but_the_repo(hf_cache: Path) -> None:
    with FaultyHub({"acme/tiny": tiny_repo(MadeUp(1000))}) as hub:
        done = tunesmith("download", "acme/tiny", HF_ENDPOINT=hub.address, AI_AGENT="someone")
        assert done.returncode == 0 and not hub.requests("other") and hub.requests("info")


def test_another_cache_is_the_only_one_that_is_touched(root: Path, hf_cache: Path, tmp_path: Path) -> None:
    done = tunesmith("download", "acme/tiny", "--source", str(root), "--cache", str(tmp_path / "here"), "--json")
    assert json.loads(done.stdout)["sources"] == [str(root)]
    assert (tmp_path / "here/models--acme--tiny/snapshots").is_dir() and not hf_cache.exists()
    assert tunesmith("verify", "acme/tiny", "--cache", str(tmp_path / "here")).returncode == 0


def test_offline_what_is_there_is_enough(root: Path) -> None:
    with loopback_hub(root) as hub:
        tunesmith("download", "acme/tiny", HF_ENDPOINT=hub)
    again = tunesmith("download", "acme/tiny", "--json", HF_HUB_OFFLINE="1")
    assert json.loads(again.stdout)["bytes_received"] == 0
    other = tunesmith("download", "acme/other", HF_HUB_OFFLINE="1")
    assert other.returncode == 78 and "HF_HUB_OFFLINE is set" in other.stderr.replace("\n", " ")


def test_offline_the_cache_that_is_named_is_the_one_that_counts(root: Path, hf_cache: Path, tmp_path: Path) -> None:
    here = ["--cache", str(tmp_path / "here"), "--json"]
    with loopback_hub(root) as hub:
        first = json.loads(tunesmith("download", "acme/tiny", *here, HF_ENDPOINT=hub).stdout)
    again = json.loads(tunesmith("download", "acme/tiny", *here, HF_HUB_OFFLINE="1").stdout)
    assert (again["path"], again["bytes_received"]) == (first["path"], 0) and not hf_cache.exists()
    other = tunesmith("download", "acme/tiny", "--cache", str(tmp_path / "empty"), HF_HUB_OFFLINE="1")
    assert other.returncode == 78 and f"the cache {tmp_path / 'empty'} does not hold" in other.stderr


def test_a_mistake_ends_with_one_sentence(root: Path) -> None:
    for words, sentence in (
        (["download", "acme/tiny", "--source", "nowhere"], "is no source: name hf, modelscope"),
        (["download", "acme/tiny", "--connections", "0"], "name a number from 1 to 64"),
        (["verify", "acme/tiny"], "download it first"),
    ):
        said = tunesmith(*words)
        assert said.returncode == 78 and sentence in said.stderr and "Traceback" not in said.stderr


def test_targets_and_sources(tmp_path: Path) -> None:
    assert parse_target("a/b") == ("a/b", "main", "model")
    assert parse_target("a/b@refs/pr/1") == ("a/b", "refs/pr/1", "model")
    assert parse_target("datasets/a/b@v1") == ("a/b", "v1", "dataset")
    assert isinstance(parse_source("hf").source, HuggingFace)
    assert isinstance(parse_source(str(tmp_path)).source, Folder)
    assert parse_source("https://mirror.example/").source.name == "https://mirror.example"
    assert isinstance(parse_source("modelscope").source, ModelScope)
    assert "x.example" in parse_source("modelscope=https://x.example").source.name
    for mistake, sentence in (("ftp://x", "is no source: name hf"), ("./nowhere", "There is no folder nowhere: check")):
        with pytest.raises(ModelError, match=sentence):
            parse_source(mistake)


def test_a_line_of_progress() -> None:
    half = Progress(5_000_000, 10_000_000, 2_500_000.0, 4, ())
    assert describe(half) == "5.0 of 10.0 MB (50%), 2.5 MB/s, 2 s left over 4 connections"
    assert describe(Progress(0, 0, 0.0, 0, ())) == "0.0 of 0.0 MB (100%), 0.0 MB/s"
