"""Other people's exceptions become our sentences."""

import os
from pathlib import Path

import pytest

from tunesmith import errors
from tunesmith.foreign import translate


def test_a_full_disk() -> None:
    with pytest.raises(OSError) as caught, open("/dev/full", "w") as file:
        file.write("x")
        file.flush()
    ours = translate(caught.value)
    assert isinstance(ours, errors.DiskFull)
    assert "free some space and run the same command; finished stages are kept" in ours.message
    assert ours.exit_code == 78


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    error = PermissionError(13, "Permission denied", str(tmp_path / "x"))
    ours = translate(error)
    assert isinstance(ours, errors.StoreNotWritable)
    assert f"{tmp_path / 'x'} cannot be written (Permission denied)" in ours.message


def test_memory_the_host_does_not_have() -> None:
    ours = translate(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    )
    assert isinstance(ours, errors.OutOfMemory)
    assert ours.exit_code == 75
    assert isinstance(translate(MemoryError()), errors.OutOfMemory)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("GatedRepoError", errors.GatedRepo),
        ("RevisionNotFoundError", errors.RepoNotFound),
        ("HfHubHTTPError", errors.HubUnavailable),
    ],
)
def test_the_hubs_errors(name: str, kind: type[errors.TunesmithError]) -> None:
    theirs = type("Derived", (type(name, (Exception,), {}),), {})("first line\nsecond line")
    ours = translate(theirs)
    assert type(ours) is kind
    assert ours.message == "first line"


def test_ours_stay_and_the_unknown_is_a_crash() -> None:
    ours = errors.DataError("x")
    assert translate(ours) is ours
    assert translate(ZeroDivisionError()) is None
    assert translate(FileNotFoundError(2, os.strerror(2), "x")) is None
