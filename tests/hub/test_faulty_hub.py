"""The hub of the fault tests is a good hub until it is told otherwise, and counts what it sends."""

import hashlib
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, snapshot_download

from tests.hub import breakages as b
from tests.hub.apart import REPO, hub_apart
from tests.hub.content import Flipped, MadeUp
from tests.hub.downloading import repo_of
from tests.hub.faults import FaultyHub, Rule
from tests.hub.repo import tiny_repo

WEIGHTS = "model.safetensors"


def test_made_up_content_is_the_same_however_it_is_read() -> None:
    content = MadeUp(300_001)
    whole = content.read(0, content.size)
    assert len(whole) == content.size and hashlib.sha256(whole).hexdigest() == content.sha256
    for start, length in [(0, 1), (65_535, 2), (65_536, 65_536), (131_000, 100_000), (300_000, 9), (300_001, 5)]:
        assert content.read(start, length) == whole[start : start + length]
    blocks = {whole[start : start + 65_536] for start in range(0, content.size, 65_536)}
    assert len(blocks) == 5, "no two places look alike"
    assert [at for at in range(content.size) if Flipped(content, 77).read(at, 1) != whole[at : at + 1]] == [77]


def test_huggingface_hub_takes_it_for_a_hub(hf_cache: Path) -> None:
    repo = repo_of(3_000_000)
    with FaultyHub({REPO: repo}) as hub:
        local = Path(snapshot_download(REPO, endpoint=hub.address))
        for path, content in repo.files.items():
            assert (local / path).read_bytes() == content.read(0, content.size)
        tree = {row.path for row in HfApi(endpoint=hub.address).list_repo_tree(REPO, recursive=True)}
        assert tree == set(repo.files)
        assert hub.sent_by_file()[WEIGHTS] == hub.sent(WEIGHTS) == 3_000_000
        assert {seen.asked.host for seen in hub.requests("cdn")} == {hub.cdn.removeprefix("http://")}


def test_a_part_of_five_gigabytes() -> None:
    content = MadeUp(5_000_000_000)
    content.__dict__["sha256"] = "f" * 64
    with FaultyHub({REPO: tiny_repo(content)}) as hub:
        address = f"{hub.address}/{REPO}/resolve/main/{WEIGHTS}"
        answer = httpx.get(address, headers={"Range": "bytes=4999999990-"}, follow_redirects=True)
        assert answer.status_code == 206 and answer.content == content.read(4_999_999_990, 10)
        assert answer.headers["content-range"] == "bytes 4999999990-4999999999/5000000000"
        assert hub.sent(WEIGHTS) == 10


def test_a_rule_changes_so_many_answers_and_no_more() -> None:
    rule = Rule("cdn", b.status(500), path=WEIGHTS, skip=1, times=2)
    with FaultyHub({REPO: repo_of(2_000_000)}, rule) as hub:
        address = f"{hub.address}/{REPO}/resolve/main/{WEIGHTS}"
        said = [httpx.get(address, follow_redirects=True).status_code for _ in range(4)]
    assert said == [200, 500, 500, 200]


def test_a_signed_address_is_good_for_so_many_requests() -> None:
    with FaultyHub({REPO: repo_of(2_000_000)}) as hub:
        hub.signature_uses = 2
        place = httpx.head(f"{hub.address}/{REPO}/resolve/main/{WEIGHTS}").headers["location"]
        assert [httpx.get(place).status_code for _ in range(3)] == [200, 200, 403]


@pytest.mark.parametrize("fault", [b.reset(1000), b.closed(1000), b.announced(5)])
def test_a_broken_body_is_an_error_to_a_client(fault: b.Change) -> None:
    with FaultyHub({REPO: repo_of(2_000_000)}, Rule("cdn", fault)) as hub, pytest.raises(httpx.TransportError):
        httpx.get(f"{hub.address}/{REPO}/resolve/main/{WEIGHTS}", follow_redirects=True)


def test_a_hub_in_another_process_counts_too() -> None:
    with hub_apart(repo_of) as hub:
        httpx.get(f"{hub.address}/{REPO}/resolve/main/config.json")
        count = hub.count()
        assert (count.sent, count.requests) == (23, 1)
        assert hub.count().requests == 0
