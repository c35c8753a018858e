"""How fast a repo comes, on loopback: `python benchmarks/download_speed.py [--runs N] [--folder DIR] [--only WORD …]`.

Side by side in one run: against huggingface_hub unthrottled and for many small files, against aria2c where each
connection is slow; with CPU seconds of each client, and this one's memory for a file of 5 GB. Every file is held to its
sha256 afterwards. The hub is a process of its own; clients take turns.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from downloads import ARIA, CONNECTIONS, OURS, THEIRS, Run, disk, empty_cache, is_right, run, versions
from runs import machine

from tests.hub.apart import Apart, hub_apart
from tests.hub.content import MadeUp
from tests.hub.repo import Repo, many_small, tiny_repo

MB = 1_000_000


class Case(NamedTuple):
    """One comparison."""

    word: str
    """For `--only`."""
    what: str
    make: Callable[[], Repo]
    size: int
    """Bytes of all files."""
    clients: tuple[str, ...]
    rate: float | None
    """Bytes a second of each connection."""
    least: float | None
    """The others' median over this one's, at least."""


def one_file(size: int) -> Repo:
    return tiny_repo(MadeUp(size))


def cases() -> list[Case]:
    bulk, slow, huge = (partial(one_file, size * MB) for size in (1024, 512, 5000))
    small = partial(many_small, 5000)
    return [
        Case("bulk", "1,024 MB, unthrottled", bulk, 1024 * MB, (OURS, THEIRS), None, 1.5),
        Case("slow50", "512 MB, 50 MB/s a connection", slow, 512 * MB, (OURS, ARIA), 50 * MB, 0.95),
        Case("slow10", "512 MB, 10 MB/s a connection", slow, 512 * MB, (OURS, ARIA), 10 * MB, 0.95),
        Case("small", "5,000 files of 1 kB", small, 5000 * 1000, (OURS, THEIRS), None, 1 / 1.2),
        Case("huge", "5,000 MB, for the memory", huge, 5000 * MB, (OURS,), None, None),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the caches lie, else where temporary files do")
    parser.add_argument("--only", nargs="*", help="bulk, slow50, slow10, small, huge")
    asked = parser.parse_args()
    print(f"{machine()}; {versions()}; caches on {disk(asked.folder)}; {CONNECTIONS} connections.")
    print("Clients took turns; median, fastest and slowest of the runs.\n")
    print("| what | client | runs | seconds | MB/s | CPU seconds | peak MB | requests | connections |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    chosen = [case for case in cases() if not asked.only or case.word in asked.only]
    verdicts = [compare(case, asked.runs if case.word != "huge" else 1, asked.folder) for case in chosen]
    print("\n" + "\n".join(f"- {line}" for _, line in verdicts))
    sys.exit(0 if all(held for held, _ in verdicts) else 1)


def compare(case: Case, runs: int, folder: Path | None) -> tuple[bool, str]:
    """Prints a row for each client; returns whether the target held, and a sentence."""
    taken: dict[str, list[Run]] = {client: [] for client in case.clients}
    asked: dict[str, tuple[int, int]] = {}
    with hub_apart(case.make, case.rate) as hub:
        for _ in range(runs):
            for client in case.clients:
                done, requests, connections = once(case, client, hub, folder)
                taken[client].append(done)
                asked[client] = (requests, connections)
    for client, rows in taken.items():
        print(
            f"| {case.what} | {client} | {runs} | {figures(case, rows)} | {asked[client][0]} | {asked[client][1]} |",
            flush=True,
        )
    if case.least is None:
        peak = taken[OURS][0].peak_bytes / MB
        return peak <= 200, f"{case.what}: {peak:.0f} MB at most, to stay under 200."
    ratio = median(taken[case.clients[1]]) / median(taken[OURS])
    return (
        ratio >= case.least,
        f"{case.what}: {ratio:.2f} times as fast as {case.clients[1]}, to be {case.least:.2f} at least.",
    )


def once(case: Case, client: str, hub: Apart, folder: Path | None) -> tuple[Run, int, int]:
    """One download, checked; with how many requests and connections it took."""
    hub.count()
    with empty_cache(folder) as cache:
        done = run(client, hub.address, cache)
        if not is_right(case.make(), cache):
            sys.exit(f"{client} brought other bytes than were served")
    count = hub.count()
    return done, count.requests, count.connections


def figures(case: Case, rows: list[Run]) -> str:
    seconds = [row.seconds for row in rows]
    cpu, peak = statistics.median(row.cpu_seconds for row in rows), max(row.peak_bytes for row in rows)
    speed = case.size / MB / median(rows)
    return f"{median(rows):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {speed:,.1f} | {cpu:.2f} | {peak / MB:.0f}"


def median(rows: list[Run]) -> float:
    return statistics.median(row.seconds for row in rows)


if __name__ == "__main__":
    main()
