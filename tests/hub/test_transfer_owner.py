"""One process at a time writes a partial file."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tunesmith.hub.transfer import owner as module
from tunesmith.hub.transfer.owner import Owner
from tunesmith.hub.transfer.patience import Patience

QUICK = Patience(owner_s=0.3, beat_s=0.05)
NEVER = Patience(owner_s=60.0, beat_s=30.0)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "x.part"


def mark(part: Path) -> Path:
    return part.with_name("x.part.owner")


def leave_mark(part: Path, **fields: object) -> None:
    mark(part).write_text(json.dumps({"host": module.host_id(), "pid": os.getpid(), "token": "t", "beats": 1} | fields))


def take_in_time(waiting: Owner) -> bool:
    return any(waiting.take() or module.time.sleep(0.02) for _ in range(500))


def test_the_second_waits_until_the_first_gives_up(part: Path) -> None:
    first, second = Owner(part, NEVER), Owner(part, NEVER)
    assert first.take() and first.holds()
    assert not second.take() and not second.holds()
    second.give_up()
    assert mark(part).exists(), "only its owner takes a mark away"
    first.give_up()
    assert second.take() and second.holds() and not first.holds()
    second.give_up()
    assert not list(part.parent.iterdir())


def test_a_live_owner_is_never_taken_for_dead(part: Path) -> None:
    first, second = Owner(part, QUICK), Owner(part, QUICK)
    assert first.take()
    # Far more looks than the time a dead mark would be given.
    assert not any(second.take() or module.time.sleep(0.02) for _ in range(40))
    assert first.holds()
    first.give_up()


def test_a_dead_process_of_this_host_is_replaced_at_once(part: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    leave_mark(part, pid=gone.pid)
    after = Owner(part, NEVER)
    assert after.take() and after.holds()
    after.give_up()


def test_another_hosts_mark_is_replaced_when_its_counter_stands_still(part: Path) -> None:
    leave_mark(part, host="elsewhere", pid=1)
    assert not Owner(part, QUICK).take(), "not at first sight"
    waiting = Owner(part, QUICK)
    assert take_in_time(waiting)
    waiting.give_up()


@pytest.mark.parametrize("content", ["", "{torn", "[1]"])
def test_a_torn_mark_belongs_to_nobody_in_the_end(part: Path, content: str) -> None:
    mark(part).write_text(content)
    waiting = Owner(part, QUICK)
    assert take_in_time(waiting)
    waiting.give_up()


def test_who_lost_the_mark_notices_and_leaves_the_new_one(part: Path) -> None:
    slept = Owner(part, QUICK)
    assert slept.take()
    leave_mark(part, token="another", host="elsewhere")
    slept._sure_until = 0.0
    assert not slept.holds()
    slept.give_up()
    assert json.loads(mark(part).read_text())["token"] == "another"


def test_a_fresh_mark_in_the_place_of_the_judged_one_is_put_back(part: Path) -> None:
    leave_mark(part, token="fresh")
    Owner(part, NEVER)._remove({"token": "old"})
    assert json.loads(mark(part).read_text())["token"] == "fresh"
    assert [path.name for path in part.parent.iterdir()] == ["x.part.owner"]


def test_a_beat_goes_to_no_other_file(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark is given up while the next beat is being made, and its descriptor's number goes to another file."""
    other, owner, pwrite = part.with_name("other"), Owner(part, NEVER), os.pwrite
    other.write_bytes(b"")
    assert owner.take()

    def give_up_and_open() -> None:
        owner.give_up()
        os.open(other, os.O_RDWR)

    meanwhile = threading.Thread(target=give_up_and_open)

    def late(fd: int, data: bytes, offset: int) -> int:
        meanwhile.start()
        meanwhile.join(0.3)
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", late)
    owner._beat()
    meanwhile.join()
    assert other.read_bytes() == b"" and not owner.holds()
