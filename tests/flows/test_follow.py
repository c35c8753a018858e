"""What a Prefect run shows of a stage: a progress artifact that says bytes, rate and time left, and the run's log."""

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prefect import flow
from prefect.artifacts import Artifact

from flows.finetune import finetune
from tasks import follow
from tasks.follow import RunLog
from tests.loopback import loopback_hub, safetensors
from tests.recipes import tiny_recipe

pytestmark = pytest.mark.usefixtures("prefect")


class Shown(NamedTuple):
    percent: float
    text: str


def shown(key: str) -> Shown:
    """The newest artifact by that key."""
    found: Any = Artifact.get(key)
    return Shown(float(json.loads(str(found.data))), str(found.description))


def progress(done: int, **more: Any) -> dict[str, Any]:
    return {"event": "progress", "done": done, "total": 10_000_000, "unit": "B", **more}


def tell(*events: Mapping[str, Any]) -> str:
    """Tells a stage's log these events in a run of its own; the artifact's key."""
    stage = f"download/{uuid.uuid4().hex[:8]}"

    @flow
    def follows() -> None:
        log = RunLog(stage)
        for event in events:
            log.event(event)

    follows()
    return f"{stage.replace('/', '-')}-progress"


def test_the_artifact_names_bytes_rate_and_time_left() -> None:
    key = tell(progress(2_500_000, rate=500_000, connections=8))
    assert shown(key).percent == 25
    assert shown(key).text.endswith(": 2.5 of 10.0 MB (25%), 0.5 MB/s, 15 s left over 8 connections")


def test_it_is_brought_up_to_date_and_ends_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "_EVERY_SECONDS", 0.0)
    key = tell(progress(2_500_000, rate=5e5), progress(5_000_000, rate=1e6))
    assert shown(key).text.endswith("5.0 of 10.0 MB (50%), 1.0 MB/s, 5 s left")
    monkeypatch.undo()
    key = tell(progress(2_500_000, rate=5e5), progress(5_000_000, rate=1e6), progress(10_000_000, rate=2e6))
    assert shown(key).percent == 100 and shown(key).text.endswith("10.0 of 10.0 MB (100%), 2.0 MB/s")


def test_stages_that_count_other_things_say_so() -> None:
    key = tell({"event": "progress", "done": 1200, "total": 4800, "unit": "step"})
    assert shown(key).percent == 25 and shown(key).text.endswith(": 1,200 of 4,800 steps (25%)")


def test_the_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    tell(*[progress(done * 100_000, rate=1e6) for done in range(20)])
    assert "MB/s" not in caplog.text
    monkeypatch.setattr(follow, "_LINE_SECONDS", 0.0)
    tell(progress(5_000_000, rate=1e6, connections=2), {"event": "progress", "done": 1, "total": 4, "unit": "step"})
    lines = [record.getMessage() for record in caplog.records if " | " in record.getMessage()]
    assert [line.partition(" | ")[2] for line in lines] == [
        "5.0 of 10.0 MB (50%), 1.0 MB/s, 5 s left over 2 connections"
    ]


def test_a_run_that_downloads_shows_it(tmp_path: Path, hf_cache: Path) -> None:
    path = tiny_recipe(tmp_path)
    (tmp_path / "hub/acme").mkdir(parents=True)
    (tmp_path / "model").rename(tmp_path / "hub/acme/tiny")
    (tmp_path / "hub/acme/tiny/model.safetensors").write_bytes(safetensors(12_000_000))
    with loopback_hub(tmp_path / "hub") as hub:
        tree = yaml.safe_load(path.read_text()) | {
            "model": {"repo": "acme/tiny", "sources": ["http://127.0.0.1:9", hub]}
        }
        path.write_text(yaml.safe_dump(tree))
        finetune(str(path), store=str(tmp_path / "store"), until="download")
    assert shown("download-progress").percent == 100
    assert re.fullmatch(r"download: 12\.0 of 12\.0 MB \(100%\), [\d.,]+ MB/s", shown("download-progress").text)
