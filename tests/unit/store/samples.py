"""Events, clocks and processes that the tests of this room share."""

from __future__ import annotations

import itertools
import multiprocessing
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING

from sandhold.model.decision import Decision, Reason
from sandhold.model.destination import Destination, Source, parse_host
from sandhold.model.event import Closed, Connection, Established, EventId, Lookup, Request, Via, Why
from sandhold.model.rule import WEB_PORTS, Effect, Generation, NamePattern, Rule, RuleId
from sandhold.store.audit import Clock, Trail

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from pathlib import Path

PROCESSES = multiprocessing.get_context("fork")
PROCESS_WAIT_S = 60.0
NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z

RULE = Rule(
    RuleId("default-example"),
    "default-example",
    Effect.ALLOW,
    NamePattern(("example", "com")),
    WEB_PORTS,
    "example.com",
)
ALLOWED = Decision(Effect.ALLOW, Reason.RULE, RULE, Generation(7))
DENIED = Decision(Effect.DENY, Reason.NO_RULE, None, Generation(7))


def ticking_clock() -> Clock:
    """A clock that goes on by one second and one nanosecond each time it is read."""
    seconds, nanoseconds = itertools.count(), itertools.count(1)
    return Clock(now=lambda: NOON + next(seconds), monotonic_ns=lambda: next(nanoseconds))


def destination(host: str = "example.com", port: int = 443, source: Source = Source.SNI) -> Destination:
    return Destination(parse_host(host), port, source)


def connection(event: str, decision: Decision = DENIED, host: str = "example.com") -> Connection:
    named = destination(host)
    original = (IPv4Address("198.18.0.1"), 443)
    return Connection(EventId(event), Via.TRANSPARENT, named, (named,), original, decision)


def request(event: str, of_connection: str, decision: Decision = ALLOWED, path: str = "/simple/") -> Request:
    named = destination(source=Source.HTTP_HOST)
    return Request(EventId(event), EventId(of_connection), Via.PROXY, named, (named,), "GET", path, decision)


def established(event: str, status: int | None = 200) -> Established:
    address = ip_address("203.0.113.7")
    return Established(EventId(event), status, (address,), (address, 443))


def closed(event: str, status: int | None = 200, why: Why = Why.DONE) -> Closed:
    return Closed(EventId(event), status, 120, 4096, 0.25, why)


def lookup(event: str, name: str = "example.com", decision: Decision = DENIED) -> Lookup:
    return Lookup(EventId(event), name, "MX", decision, asked_outside=False)


def open_trail(path: Path, sandbox: str = "lab", session: str = "s1") -> Trail:
    return Trail.open(path, sandbox, session, ticking_clock())


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    return process


def finish(*processes: BaseProcess) -> list[int | None]:
    """Wait for processes with an end to the wait, and return how they ended."""
    for process in processes:
        process.join(PROCESS_WAIT_S)
    codes = [process.exitcode for process in processes]
    for process in processes:
        if process.exitcode is None:
            process.kill()
            process.join()
        process.close()
    return codes
