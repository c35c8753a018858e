"""What `tunesmith doctor` finds."""

import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.doctor import Finding, examine
from tunesmith.environments import CHECKOUT, ENVIRONMENTS


def test_a_store_that_is_not_there_yet_is_fine_and_is_not_made(tmp_path: Path):
    found = _by_name(tmp_path / "new" / "store")
    assert found["store"].ok
    assert "first run" in found["store"].detail
    assert [*tmp_path.iterdir()] == []


def test_a_store_below_a_file_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    store = _by_name(tmp_path / "file" / "store")["store"]
    assert not store.ok
    assert "choose another --store" in store.detail


def test_an_environment_that_is_not_built_comes_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path))
    for name in ENVIRONMENTS:
        monkeypatch.delenv(f"TUNESMITH_PYTHON_{name.upper()}", raising=False)
    found = _by_name(tmp_path)
    assert not found["environment train"].ok
    assert "make env-train" in found["environment train"].detail
    assert "make env-serve" in found["environment serve"].detail


def test_a_full_disk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tunesmith.doctor.MIN_FREE_BYTES", 1 << 62)
    disk = _by_name(tmp_path)["disk"]
    assert not disk.ok
    assert "free some space" in disk.detail


def test_a_silent_prefect_server_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    server = _by_name(tmp_path)["prefect server"]
    assert not server.ok
    assert "prefect server start" in server.detail
    monkeypatch.delenv("PREFECT_API_URL")
    assert _by_name(tmp_path)["prefect server"].ok


def test_a_broken_driver_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Failed to initialize NVML'\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    devices = _by_name(tmp_path)["devices"]
    assert not devices.ok
    assert "Failed to initialize NVML" in devices.detail
    tool.write_text("#!/bin/sh\necho 'NVIDIA A10, 23028 MiB'\n")
    assert _by_name(tmp_path)["devices"] == Finding("devices", True, "NVIDIA A10, 23028 MiB")


def test_nothing_heavy_is_imported(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from tunesmith.doctor import examine; examine(Path(sys.argv[1]));"
        "print([name for name in ('torch', 'transformers', 'prefect', 'vllm') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def _by_name(store: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(store)}
