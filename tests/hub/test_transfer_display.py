"""What a person sees of a download: on a terminal, in a log, and from the stage of a run."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.hearing import Heard
from tests.hub.content import Held, MadeUp
from tests.hub.faults import FaultyHub
from tests.hub.repo import Repo
from tests.loopback import write_model
from tunesmith.hub.listing import resolve_model
from tunesmith.hub.transfer import display
from tunesmith.hub.transfer.display import shown
from tunesmith.hub.transfer.report import Progress, describe, duration
from tunesmith.jobs import DownloadJob
from tunesmith.runner import run
from tunesmith.specs.model import ModelSpec
from tunesmith.store import Store

REPO, SIZE = "acme/tiny", 20_000_000
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(display, "time", clock)
    return clock


def slow_repo(folder: Path, rate: float) -> FaultyHub:
    """A model whose weights take a while, in two shards and some small files."""
    files = {path.name: Held(path.read_bytes()) for path in write_model(folder).iterdir() if path.suffix == ".json"}
    shards = {f"model-0000{n}-of-00002.safetensors": MadeUp(SIZE // 2, seed=n) for n in (1, 2)}
    return FaultyHub({REPO: Repo({**files, **shards, "model.safetensors.index.json": Held(b"{}")})}, rate=rate)


def half(**changes: object) -> Progress:
    whole = Progress(5_000_000, 10_000_000, 2_500_000.0, 4, (("a[0].bin", 1_000_000, 4_000_000),))
    return whole._replace(**changes)  # type: ignore[arg-type]


def test_a_terminal_shows_the_whole_and_each_file(clock: Clock) -> None:
    said = io.StringIO()
    with shown(Console(file=said, force_terminal=True, width=120)) as report:
        report.progress(half())
        clock.now += 2
        report.progress(half(done=8_000_000, files=(("a[0].bin", 2_000_000, 4_000_000), ("b.bin", 0, 7_000))))
        report.note("b.bin is late.")
    rows = [line.strip() for line in _ESCAPES.sub("", said.getvalue()).replace("\r", "\n").splitlines()]
    total, file = ([row for row in rows if row.startswith(name)][-1] for name in ("total", "a[0].bin"))
    assert "8.0/10.0 MB" in total and total.endswith("2.5 MB/s, 1 s left")
    assert "2.0/4.0 MB" in file and file.endswith("0.5 MB/s, 4 s left")
    assert "b.bin is late." in rows and any(row.startswith("b.bin ") for row in rows)


def test_what_an_earlier_process_left_is_not_speed(clock: Clock) -> None:
    said = io.StringIO()
    with shown(Console(file=said, force_terminal=True, width=120)) as report:
        for done in (0, 3_000_000, 3_500_000):
            report.progress(half(files=(("a.bin", done, 4_000_000),)))
            clock.now += 1
    last = [row for row in _ESCAPES.sub("", said.getvalue()).replace("\r", "\n").splitlines() if "a.bin" in row][-1]
    assert last.strip().endswith("0.5 MB/s, 1 s left")


def test_a_log_has_a_line_now_and_then_and_one_at_the_end(clock: Clock) -> None:
    said = io.StringIO()
    with shown(Console(file=said)) as report:
        for _ in range(24):
            clock.now += 0.5
            report.progress(half())
        for _ in range(20):
            clock.now += 0.5
            report.progress(half(done=10_000_000))
        report.note("done")
    line = describe(half())
    assert said.getvalue().splitlines() == [line, line, describe(half(done=10_000_000)), "done"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99.4, "99 s"), (100, "2 min"), (5999, "100 min"), (6000, "1.7 h")]
)
def test_how_long_it_takes(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_line_without_a_rate_says_nothing_of_the_time_left() -> None:
    assert describe(half(rate=0.0, connections=0)) == "5.0 of 10.0 MB (50%), 0.0 MB/s"


def test_the_command_at_a_terminal_and_in_a_log(tmp_path: Path, hf_cache: Path) -> None:
    near, far = pty.openpty()
    with slow_repo(tmp_path / "model", rate=1_500_000) as hub:
        command = [sys.executable, "-m", "tunesmith.cli", "download", REPO, "--source", hub.address]
        width = os.environ | {"COLUMNS": "120", "TERM": "xterm"}
        at_terminal = subprocess.Popen([*command, "--cache", str(tmp_path / "1")], stderr=far, stdout=far, env=width)
        os.close(far)
        seen = _ESCAPES.sub("", _read(near)).replace("\r", "\n")
        assert at_terminal.wait() == 0
        in_log = subprocess.run([*command, "--cache", str(tmp_path / "2")], capture_output=True, text=True, check=True)
    for row in (r"total .*/20\.0 MB .* MB/s, \d+ s left", r"model-00002-of-00002\.safetensors .*/10\.0 MB .* MB/s, \d"):
        assert re.search(row, seen), seen
    *_, last, facts = in_log.stderr.splitlines()
    assert last.startswith("20.0 of 20.0 MB (100%), ") and "MB received in" in facts
    assert "\x1b" not in in_log.stderr and len(in_log.stderr.splitlines()) < 6


def _read(near: int) -> str:
    content = b""
    try:
        while block := os.read(near, 65536):
            content += block
    except OSError:
        # How a terminal says that the other side is closed.
        pass
    return content.decode(errors="replace")


def test_the_stage_says_rate_and_connections(tmp_path: Path, hf_cache: Path, store: Store) -> None:
    heard = Heard()
    with slow_repo(tmp_path / "model", rate=1_500_000) as hub:
        source = resolve_model(ModelSpec(repo=REPO, hub=hub.address), tmp_path)
        run(DownloadJob(source=source), store, heard)
    under_way = [event for event in heard.of("progress") if 0 < event["done"] < event["total"]]
    assert under_way and all(event["total"] == source.total_bytes and event["unit"] == "B" for event in under_way)
    assert any(event["rate"] > 0 and event["connections"] > 0 for event in under_way)
