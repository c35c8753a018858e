"""kill -9 in the middle of a download: `python benchmarks/download_kill.py [--seed N] [--kills N] [--theirs N]`.

Each time the client is killed once the hub has sent a random share of the file, and started again until it is done.
Counted at the hub: what it sent twice, as a share of what it had sent at the kill. What the hub had sent and the
client's journal did not vouch for was in flight; it is counted for each connection. Then the file's sha256, and what is
left in the cache that no finished download has. Some of the same offsets are given to huggingface_hub.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

from downloads import OURS, REPO, THEIRS, disk, empty_cache, is_right, run, start, versions
from runs import machine

from tests.hub.content import MadeUp
from tests.hub.faults import FaultyHub
from tests.hub.repo import Repo, tiny_repo
from tunesmith.hub.transfer.journal import peek
from tunesmith.hub.transfer.spans import Spans

MB = 1_000_000
KIB, BLOCK_KIB = 1 << 10, 256
SIZE = 256 * MB
RATE = 25.0 * MB


class Kill(NamedTuple):
    """What one kill cost."""

    sent_before: int
    """Bytes the hub had sent when the client was gone."""
    flying: list[int]
    """Bytes of each connection that were in flight then, where there is a journal that tells."""
    again: int
    """Bytes it sent twice in all."""
    left: int
    """Files in the cache that nobody needs."""
    left_bytes: int
    right: bool
    """Whether the file has its sha256 in the end."""

    @property
    def share(self) -> float:
        return self.again / self.sent_before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--theirs", type=int, default=10, help="how many of the offsets huggingface_hub is given")
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    offsets = [chance.randint(SIZE // 50, SIZE - SIZE // 50) for _ in range(asked.kills)]
    print(f"{machine()}; {versions()}; caches on {disk(None)}; seed {asked.seed}.")
    print(f"One file of {SIZE // MB} MB over connections of {RATE / MB:.0f} MB/s.\n")
    print("| client | kills | sent again: median | worst | files left over | MB left over | right in the end |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    repo = tiny_repo(MadeUp(SIZE))
    ours = [kill_at(offset, OURS, repo) for offset in offsets]
    good = report(OURS, ours)
    report(THEIRS, [kill_at(offset, THEIRS, repo) for offset in offsets[: asked.theirs]])
    sys.exit(0 if windows(ours) and good else 1)


def report(client: str, kills: list[Kill]) -> bool:
    """Prints the client's row; whether every file was right and nothing was left."""
    shares = [kill.share for kill in kills]
    left, left_mb = sum(kill.left for kill in kills), sum(kill.left_bytes for kill in kills) / MB
    right = sum(kill.right for kill in kills)
    cells = [client, len(kills), f"{statistics.median(shares):.1%}", f"{max(shares):.1%}"]
    print("|", " | ".join(map(str, [*cells, left, f"{left_mb:,.0f}", f"{right} of {len(kills)}"])), "|", flush=True)
    return right == len(kills) and not left


def windows(kills: list[Kill]) -> bool:
    """Prints what was in flight on each connection; whether no more than that was sent again."""
    each = sorted(size for kill in kills for size in kill.flying if size)
    over = max(kill.again - sum(kill.flying) for kill in kills)
    worst = max(kills, key=lambda kill: kill.share)
    print(
        f"\nIn flight at a kill, of each connection: {statistics.median(each) / KIB:,.0f} KiB in the median, "
        f"{each[-1] / KIB:,.0f} KiB at most; a block that is received and noted has {BLOCK_KIB} KiB at most, "
        f"the rest is the sockets'. Sent again beyond that: {max(over, 0):,} bytes at worst. The worst share is of "
        f"{worst.sent_before / MB:.0f} MB: {worst.again / KIB:,.0f} KiB again, of {sum(map(bool, worst.flying))} "
        "connections."
    )
    return over <= 0


def kill_at(offset: int, client: str, repo: Repo) -> Kill:
    """One download, killed once `offset` bytes of the weights were sent, then finished."""
    with FaultyHub({REPO: repo}, rate=RATE) as hub, empty_cache(None) as cache:
        process = start(client, hub.address, cache)
        while hub.sent() < offset:
            if process.poll() is not None:
                sys.exit(f"{client} ended with {process.returncode} before it was killed")
            time.sleep(0.002)
        process.kill()
        process.wait()
        before = settled(hub)
        flying = in_flight(hub, cache, repo)
        run(client, hub.address, cache)
        again = settled(hub) - sum(content.size for content in repo.files.values())
        left = leftovers(cache)
        return Kill(before, flying, again, len(left), sum(map(allocated, left)), is_right(repo, cache))


def in_flight(hub: FaultyHub, cache: Path, repo: Repo) -> list[int]:
    """Bytes that the hub sent on each connection and that no journal vouches for; of files without one, all."""
    there: dict[str, Spans] = {}
    for path, content in repo.files.items():
        blob = next(cache.glob("*/blobs"), cache) / content.sha256
        arrived = peek(blob.with_name(f"{blob.name}.part"), content.size, f"sha256:{content.sha256}")
        placed = any(place.exists() for place in cache.glob(f"*/snapshots/*/{path}"))
        there[path] = Spans([(0, content.size)]) if placed else arrived
    sent = [(one.asked.path, (one.start, one.start + one.sent)) for one in hub.requests("cdn")]
    sent += [(one.asked.path, (one.start, one.start + one.sent)) for one in hub.requests("resolve")]
    return [Spans([span]).without(there[path]).total for path, span in sent if path in there]


def settled(hub: FaultyHub) -> int:
    """Bytes sent, once no connection sends any more."""
    sent = -1
    while sent != (sent := hub.sent()):
        time.sleep(0.3)
    return sent


def leftovers(cache: Path) -> list[Path]:
    """Files beside the blobs that no snapshot leads to."""
    linked = {path.resolve() for path in cache.glob("*/snapshots/*/**/*")}
    return [path for path in cache.glob("*/blobs/*") if path.resolve() not in linked]


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


if __name__ == "__main__":
    main()
