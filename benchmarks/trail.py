"""The audit trail: what a durable record costs, and how long `sbx policy log` takes on a short and on a long one."""

from __future__ import annotations

import functools
import itertools
import os
import select
import subprocess
import time
from ipaddress import IPv4Address
from typing import IO, TYPE_CHECKING, Final

from benchmarks.processes import NotMeasuredError, timed
from benchmarks.rounds import rounds, take
from benchmarks.sandbox import Installation
from sandhold.model.decision import Decision, Reason
from sandhold.model.destination import Destination, Source, parse_host
from sandhold.model.event import Closed, Connection, Established, EventId, Via, Why
from sandhold.model.rule import WEB_PORTS, Effect, Generation, NamePattern, Rule, RuleId
from sandhold.store.audit import Clock, Trail
from sandhold.store.event_ids import new_event_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.figures import Figures
    from benchmarks.rounds import Metrics
    from benchmarks.world import World
    from sandhold.model.event import Event

BUDGET_S: Final = 100.0  # of the half hour that everything may take: beside writing a million records first
LAB: Final = "lab"
SHORT: Final = 1000
BATCHES: Final = (1, 64)
APPENDS: Final = 200
RECORDS_EACH: Final = 3  # of one connection
FOLLOW_TIMEOUT_S: Final = 60.0  # for a line to be shown; a follower looks several times a second
FILL_BATCH: Final = 9000
RARE_EVERY: Final = 10_000  # connections to one that is for the host that is asked for
COMMON_HOSTS: Final = 200

_CLOCK: Final = Clock(now=time.time, monotonic_ns=time.monotonic_ns)
_RULE: Final = Rule(
    RuleId("default-example"), "default-example", Effect.ALLOW, NamePattern(("good", "test")), WEB_PORTS, "good.test"
)
_ALLOWED: Final = Decision(Effect.ALLOW, Reason.RULE, _RULE, Generation(7))
_ADDRESS: Final = IPv4Address("203.0.113.10")


def measure(world: World, figures: Figures, *, count_of_rounds: int, long: int) -> None:
    """Append to a trail of its own, then ask about a short trail and one of `long` records, in turn."""
    homes = {count: Installation(world.disk / f"trail-{count}") for count in (SHORT, long)}
    for count, sbx in homes.items():
        project = sbx.home / "project"
        project.mkdir(parents=True)
        sbx.run("create", "--name", LAB, "shell", ".", folder=project)
        _fill(_trail(sbx), count)
    queries = {
        "last 100": ("--limit", "100"),
        "one host": ("--host", "rare.test"),
    }
    for _ in rounds(count_of_rounds, BUDGET_S):
        for batch in BATCHES:
            path = world.disk / "appended.jsonl"
            take(figures, "appends", f"{batch} at a time", functools.partial(_append, path, batch))
        for count, sbx in homes.items():
            for name, words in queries.items():
                argv = sbx.argv("policy", "log", LAB, "--no-follow", *words)
                take(figures, "log", f"{name}, {count} records", functools.partial(_ask, argv, sbx.home))
    for count, sbx in homes.items():
        sbx.run("run", "-d", LAB)  # what does not run is not followed
        try:
            for _ in rounds(count_of_rounds, BUDGET_S):
                take(figures, "log", f"follow, {count} records", functools.partial(_follow, sbx))
        finally:
            sbx.run("rm", "-f", LAB)


def _trail(sbx: Installation) -> Path:
    return sbx.state / "audit" / f"{LAB}.jsonl"


def _append(path: Path, batch: int) -> Metrics:
    events = itertools.islice(connections(), APPENDS * batch)
    with Trail.open(path, LAB, "session", _CLOCK) as trail:
        batches = [list(itertools.islice(events, batch)) for _ in range(APPENDS)]
        trail.append(batches[0])
        cpu, wall = time.process_time(), time.perf_counter()
        for each in batches[1:]:
            trail.append(each)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    count = (APPENDS - 1) * batch
    return {"cpu_us": cpu / count * 1e6, "wall_us": wall / count * 1e6, "per_second": count / wall}


def _ask(argv: list[str], folder: Path) -> Metrics:
    cost = timed(argv, folder=folder)
    return {"wall_ms": cost.wall_s * 1e3, "cpu_ms": cost.cpu_s * 1e3}


def _follow(sbx: Installation) -> Metrics:
    """Wait until a follower shows the newest connection, then until it shows one that was appended meanwhile."""
    argv = sbx.argv("policy", "log", LAB, "--follow", "--limit", "1")
    began = time.perf_counter()
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=sbx.home
    ) as follower:
        assert follower.stdout is not None
        try:
            _read_until(follower.stdout, b".test")
            shown_s = time.perf_counter() - began
            with Trail.open(_trail(sbx), LAB, "session", _CLOCK) as trail:
                trail.append(list(itertools.islice(connections("seen.test"), RECORDS_EACH)))
            appended = time.perf_counter()
            _read_until(follower.stdout, b"seen.test")
            seen_s = time.perf_counter() - appended
            with Trail.open(_trail(sbx), LAB, "session", _CLOCK) as trail:  # the next follower shows this one first
                trail.append(list(itertools.islice(connections(), RECORDS_EACH)))
        finally:
            follower.kill()
    return {"wall_ms": shown_s * 1e3, "seen_after_ms": seen_s * 1e3}


def _read_until(stream: IO[bytes], text: bytes) -> None:
    shown = b""
    deadline = time.monotonic() + FOLLOW_TIMEOUT_S
    while text not in shown:
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        data = os.read(stream.fileno(), 65536) if ready else b""
        if not data:
            raise NotMeasuredError(f"the follower does not show {text.decode()!r}")
        shown += data


def _fill(path: Path, count: int) -> None:
    whole = count // RECORDS_EACH * RECORDS_EACH  # a connection that is still open is not shown by a follower
    events = itertools.islice(connections(), whole)
    with Trail.open(path, LAB, "session", _CLOCK) as trail:
        while batch := list(itertools.islice(events, FILL_BATCH)):
            trail.append(batch)


def connections(host: str | None = None) -> Iterator[Event]:
    """Yield the records of one allowed connection after another, to one host or to many."""
    for number in itertools.count():
        event: EventId = new_event_id(time.time())
        name = "rare.test" if number % RARE_EVERY == 0 else f"host-{number % COMMON_HOSTS}.test"
        named = Destination(parse_host(host or name), 443, Source.SNI)
        yield Connection(event, Via.TRANSPARENT, named, (named,), (IPv4Address("198.18.0.1"), 443), _ALLOWED)
        yield Established(event, 200, (_ADDRESS,), (_ADDRESS, 443))
        yield Closed(event, 200, 1200, 40960, 0.25, Why.DONE)
