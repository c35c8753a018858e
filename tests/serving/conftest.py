import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.serving.releases import fake_interpreter
from tunesmith.serving import endpoint
from tunesmith.serving.control import Supervisor
from tunesmith.store import Store


@pytest.fixture
def served(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store that may serve the fake engine; whatever a test left running is stopped, and then nothing may be left."""
    monkeypatch.setenv("TUNESMITH_PYTHON_SERVE", str(fake_interpreter(tmp_path / "python")))
    yield store
    endpoint.stop(store)
    assert not processes_of(store)


def processes_of(store: Store) -> list[str]:
    """Command lines of the processes that run in the store's serving folder."""
    folder = str(Supervisor(store).folder)
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == folder and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found
