"""What a session weighs: every process we run for a sandbox, idle, and with tunnels that are open and silent.

Proportional set size, so that pages shared by our processes, or with those of other sandboxes, count once in all; idle
also as if nothing else ran, because the benchmark's own interpreter shares pages with ours. What the user runs inside
is not ours and is not counted. Peers are their proxy alone: they hold nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import time
from typing import TYPE_CHECKING, Final

from benchmarks.pages import alone_bytes
from benchmarks.processes import NotMeasuredError, pss_bytes, tree
from benchmarks.proxies import QUICK, Bench
from benchmarks.rounds import rounds, take
from benchmarks.sandbox import PROXIED, installed, proxied, session_pids
from benchmarks.subjects import started
from benchmarks.world import NAME, TUNNEL_PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.figures import Figures
    from benchmarks.rounds import Metrics
    from benchmarks.subjects import Load, Subject
    from benchmarks.world import World

BUDGET_S: Final = 120.0  # of the half hour that everything may take: every peer started anew
MB: Final = 1_000_000
SANDBOXES: Final = 3  # one sandbox may have 4096 connections (`CONNECTIONS_MAX`)
HELD_S: Final = 60  # the client ends by itself, whatever becomes of us


def measure(world: World, figures: Figures, *, count_of_rounds: int, tunnels: int) -> None:
    """Weigh ours and every peer, fresh in each round."""

    def cannot_start(subject: str, reason: str) -> None:
        figures.fail("memory", subject, reason)

    for _ in rounds(count_of_rounds, BUDGET_S):
        with started(world, (), cannot_start) as peers:
            for peer in peers:
                if peer.pids:
                    take(figures, "memory", peer.name, functools.partial(_weigh, world, peer, peer.pids, tunnels))
        take(figures, "memory", "sandhold", lambda: _weigh_session(world, tunnels))


def measure_many(world: World, figures: Figures, *, tunnels: int) -> None:
    """Hold more tunnels than one sandbox may have, over as many sandboxes as it takes."""
    take(figures, "tunnels", f"{tunnels} tunnels, {SANDBOXES} sandboxes", lambda: _weigh_many(world, tunnels))


def _weigh(world: World, subject: Subject, pids: Sequence[int], tunnels: int) -> Metrics:
    family = tree(pids)
    idle, alone = pss_bytes(family), alone_bytes(family)
    if not idle:
        raise NotMeasuredError("its memory cannot be read")
    with _held(world, subject, tunnels) as load:
        load.wait_ready()
        held = pss_bytes(family)
    return {"idle_mb": idle / MB, "alone_mb": alone / MB, "per_1000_mb": (held - idle) / MB / tunnels * 1000}


def _weigh_session(world: World, tunnels: int) -> Metrics:
    with proxied(world) as subject:
        session = session_pids(installed(world), PROXIED)["session"]
        return _weigh(world, subject, (session,), tunnels)


def _weigh_many(world: World, tunnels: int) -> Metrics:
    with contextlib.ExitStack() as stack:
        subjects = [stack.enter_context(proxied(world, f"many-{number}")) for number in range(SANDBOXES)]
        pids = tree(session_pids(installed(world), f"many-{number}")["session"] for number in range(SANDBOXES))
        idle = pss_bytes(pids)
        began = time.monotonic()
        loads = [stack.enter_context(_held(world, subject, tunnels // SANDBOXES)) for subject in subjects]
        for load in loads:
            load.wait_ready()
        took_s = time.monotonic() - began
        return {"open_s": took_s, "idle_mb": idle / MB, "held_mb": pss_bytes(pids) / MB}


def _held(world: World, subject: Subject, tunnels: int) -> Load:
    way = {"to": subject.tunnels, "via": subject.via, "host": f"{NAME}:{TUNNEL_PORT}"}
    return Bench(world, QUICK).load(subject, "idle", tunnels=tunnels, seconds=HELD_S, reply=16, **way)
