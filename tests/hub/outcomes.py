"""The table of docs/download-faults.md: what was done to a download, and what became of it."""

import fcntl
import re
from collections import defaultdict
from pathlib import Path

HEAD = """# Faults, and what a download does about them

Every row is a test in `tests/hub/test_faults_*.py` that a hub of `tests/hub/faults.py` was told to fail; the right column
is what the test then saw. "Recovered" means that every file in the cache was there with the sha256 of what the hub holds.
Made by the tests themselves:

    rm docs/download-faults.md
    TUNESMITH_FAULT_TABLE=docs/download-faults.md .venv/bin/python -m pytest -q tests/hub -k faults
"""


_OF_THIS_RUN = (
    (r"http://(127\.0\.0\.1|localhost):\d+", "HUB"),
    (r"\b[0-9a-f]{40}\b", "COMMIT"),
    (r"(?<![\w/:.'])/(?:[\w.+-]+/)+[\w.+-]*\w", "FOLDER"),
    (r"[\d.,]+ GiB are free", "N GiB are free"),
)
"""What differs from run to run, and what stands for it."""


class Outcomes:
    def __init__(self) -> None:
        self._rows: dict[str, dict[str, str]] = defaultdict(dict)

    def note(self, section: str, fault: str, outcome: str) -> None:
        """A row; addresses and folders of this run are taken out of the outcome."""
        for pattern, word in _OF_THIS_RUN:
            outcome = re.sub(pattern, word, outcome)
        self._rows[section][fault] = outcome

    def write(self, place: Path) -> None:
        """Adds the rows to the file's; several test processes may do so at once."""
        with place.with_name(f".{place.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            rows = _read(place)
            for section, found in self._rows.items():
                rows[section] |= found
            place.write_text(HEAD + "".join(_section(name, rows[name]) for name in sorted(rows)))
            Path(lock.name).unlink()


def _section(name: str, rows: dict[str, str]) -> str:
    lines = [f"| {fault} | {outcome} |" for fault, outcome in rows.items()]
    return "\n".join([f"\n## {name}\n", "| fault | outcome |", "| --- | --- |", *lines, ""])


def _read(place: Path) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    section = ""
    for line in place.read_text().splitlines() if place.exists() else []:
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("| ") and section and not line.startswith(("| fault |", "| --- ")):
            fault, _, outcome = line.strip("| ").partition(" | ")
            rows[section][fault] = outcome
    return rows
