"""What a decision costs as rules grow, and what reading the policy costs: time and memory of a fresh process.

Rules are rows of a real database, read as a starting egress reads them; the decision is the function that enforces.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.processes import NotMeasuredError, pss_bytes
from benchmarks.rounds import rounds, take
from sandhold.model.destination import Destination, Source, parse_host
from sandhold.policy.decide import decide
from sandhold.store.database import open_database
from sandhold.store.policy_index import read_index

if TYPE_CHECKING:
    from benchmarks.figures import Figures
    from benchmarks.rounds import Metrics
    from benchmarks.world import World

BUDGET_S: Final = 120.0  # of the half hour that everything may take: writing and reading a million rules
CHILD_TIMEOUT_S: Final = 300.0  # a million rules load in seconds
LOOPS: Final = 20_000
NAMES: Final = 1000


def measure(world: World, figures: Figures, *, count_of_rounds: int, sizes: tuple[int, ...]) -> None:
    """Write one policy for each size, then let fresh processes read each and decide, in turn."""
    databases = {size: world.disk / f"rules-{size}.db" for size in sizes}
    for size, path in databases.items():
        write_rules(path, size)
    for _ in rounds(count_of_rounds, BUDGET_S):
        for size, path in databases.items():
            take(figures, "decisions", f"{size} rules", functools.partial(_in_child, path, size))


def write_rules(path: Path, count: int) -> None:
    """Store `count` local rules: nine in ten are hosts, the others names below one, networks and denials."""
    with contextlib.closing(open_database(path)) as database, database:
        database.execute("BEGIN")
        rows = ((f"local:{uuid.UUID(int=number)}", *_rule(number), 1.0) for number in range(count))
        database.executemany("INSERT INTO rules (id, effect, resource, created_at) VALUES (?, ?, ?, ?)", rows)


def _rule(number: int) -> tuple[str, str]:
    match number % 30:
        case 27:
            return "allow", f"**.zone-{number}.test"
        case 28:
            return "allow", f"11.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        case 29:
            return "deny", f"bad-{number}.test"
        case _:
            return "allow", f"host-{number}.test"


def _in_child(path: Path, size: int) -> Metrics:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.decisions", str(path), str(size)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CHILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise NotMeasuredError(done.stderr.strip()[-300:])
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def read_and_decide(path: Path, size: int) -> Metrics:
    """Read the policy, then judge names that rules name and names that none does; microseconds of this processor."""
    weight = pss_bytes([os.getpid()])
    began = time.process_time()
    index = read_index(path, "bench")
    load_s = time.process_time() - began
    weight = pss_bytes([os.getpid()]) - weight
    assert index.refusal is None
    spread = max(1, size // NAMES)
    hits = [f"host-{number}.test" for number in range(0, size, spread) if _rule(number)[1].startswith("host-")]
    misses = [f"www.other-{number}.test" for number in range(NAMES)]
    assert decide(index, _destination(hits[0]), 1.0).is_allowed
    assert not decide(index, _destination(misses[0]), 1.0).is_allowed
    return {
        "hit_us": _judge(index, hits),
        "miss_us": _judge(index, misses),
        "load_s": load_s,
        "memory_mb": weight / 1e6,
    }


def _destination(name: str) -> Destination:
    return Destination(parse_host(name), 443, Source.SNI)


def _judge(index: PolicyIndex, names: list[str]) -> float:
    destinations = [_destination(name) for name in names]
    began = time.process_time()
    for turn in range(LOOPS):
        decide(index, destinations[turn % len(destinations)], 1.0)
    return (time.process_time() - began) / LOOPS * 1e6


if TYPE_CHECKING:
    from sandhold.policy.index import PolicyIndex

if __name__ == "__main__":
    print(json.dumps(read_and_decide(Path(sys.argv[1]), int(sys.argv[2]))))
