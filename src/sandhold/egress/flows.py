"""The table of open connections: who they are, what they claim, and how to cut them when the policy changes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.egress.upstream import vet
from sandhold.model.event import Closed, Why
from sandhold.policy.decide import decide_claims

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from sandhold.egress.reactor import Task
    from sandhold.egress.relay import Relay
    from sandhold.egress.stream import Stream
    from sandhold.egress.upstream import Dialled
    from sandhold.model.destination import Destination
    from sandhold.model.event import Event, EventId, Via
    from sandhold.policy.index import PolicyIndex

CONNECTIONS_MAX: Final = 4096  # of one sandbox; each costs two descriptors and a few KiB
SHARED_MAX: Final = 1024  # destinations whose names are held once; a sandbox is busy with a few dozen
OPENINGS_MANY: Final = 32  # in the middle of their opening, which takes five times the memory of an idle tunnel


@dataclass(slots=True, eq=False)
class Flow:
    """One accepted connection for as long as it lives.

    `named` are the claims the connection itself made (where it was dialled to, the CONNECT), `claims` what the present
    decision was made on; `claims` is empty until there is one. `addresses` is the one that was dialled, or all that the
    name had when the host's proxy dialled. `started` is the moment of the decision (before there is one, of the
    connection) on the reactor's clock. `why` is set by whoever ends the connection first. `relay` is set, and `task`
    None, once the connection needs no task any more. `is_recorded` says that a record was asked for, `is_durable` that
    one was made; `off_record` is what could not be put on record in time and has to be noted in the end. `user` is
    evidence for the record and decides nothing. `counted_as` is the event of the record that counts the last denial, if
    one does.
    """

    event: EventId
    via: Via
    original: tuple[IPv4Address | IPv6Address, int] | None
    downstream: Stream
    task: Task | None
    started: float
    named: tuple[Destination, ...] = ()
    claims: tuple[Destination, ...] = ()
    upstream: Stream | None = None
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    is_recorded: bool = False
    is_durable: bool = False
    off_record: tuple[Event, ...] = ()
    status: int | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    why: Why | None = None
    detail: str | None = None
    active_at: float = 0.0
    relay: Relay | None = None
    counted_as: EventId | None = None
    user: int | None = None

    def count_up(self, size: int) -> None:
        """Count bytes that leave the sandbox."""
        self.bytes_up += size

    def count_down(self, size: int) -> None:
        """Count bytes that come to the sandbox."""
        self.bytes_down += size

    def take(self, dialled: Dialled) -> None:
        """Take over a connection to the far end; the one before it is closed."""
        if self.upstream is not None:
            self.upstream.close()
        self.upstream = dialled.stream
        self.addresses = dialled.resolved if dialled.address is None else dialled.address[:1]

    def hand_over(self, relay: Relay) -> None:
        """Let a relay live the rest of the connection; a thousand of them to one place hold its names once.

        What it claimed itself is not told apart any more: only the record of its decision needed that.
        """
        self.relay, self.task = relay, None
        self.claims, self.addresses = shared(self.claims, self.addresses)
        self.named = self.claims

    def end(self, why: Why, detail: str | None = None) -> None:
        """Say why the connection ends; the first reason counts."""
        if self.why is None:
            self.why = why
            self.detail = detail

    def cut(self, why: Why) -> None:
        """End the connection from outside: both sides are reset before anything else of it runs."""
        self.end(why)
        self.reset()
        if self.task is not None:
            self.task.cancel()
        if self.relay is not None:
            self.relay.stop()

    def reset(self) -> None:
        """Reset both sides."""
        self.downstream.reset()
        if self.upstream is not None:
            self.upstream.reset()

    def closed(self, clock: float) -> Closed:
        """The end record."""
        return Closed(
            event=self.event,
            status=self.status,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            duration_s=round(clock - self.started, 6),
            why=self.why or Why.DONE,
            detail=self.detail,
        )


class Flows:
    """Every open connection of the sandbox."""

    def __init__(self, limit: int = CONNECTIONS_MAX) -> None:
        self._open: set[Flow] = set()
        self._opening: set[Flow] = set()
        self._limit = limit

    def __len__(self) -> int:
        return len(self._open)

    @property
    def is_full(self) -> bool:
        """Whether another connection would be one too many."""
        return len(self._open) >= self._limit

    @property
    def are_many_opening(self) -> bool:
        """Whether so many are in the middle of their opening that others had better wait for some of them."""
        return len(self._opening) >= OPENINGS_MANY

    def add(self, flow: Flow) -> None:
        """Enter a connection, which is in its opening from here on."""
        self._open.add(flow)
        self._opening.add(flow)

    def has_opened(self, flow: Flow) -> None:
        """Take note that the opening of a connection is over: it is a tunnel, or its requests are read."""
        self._opening.discard(flow)

    def remove(self, flow: Flow) -> None:
        """Take out a connection that has ended."""
        self._open.discard(flow)
        self._opening.discard(flow)

    def end_idle(self, now: float) -> None:
        """End what has carried nothing for too long; `now` is the reactor's clock."""
        for flow in tuple(self._open):
            if flow.relay is not None:
                flow.relay.end_if_idle(now)

    def cut_denied(self, index: PolicyIndex, now: float) -> tuple[Flow, ...]:
        """Cut what this policy denies; returns it, so that its end records can be awaited."""
        denied = tuple(flow for flow in self._open if flow.claims and not _is_allowed(index, flow, now))
        for flow in denied:
            flow.cut(Why.CLOSED_BY_POLICY)
        return denied

    def cut_all(self, why: Why) -> tuple[Flow, ...]:
        """Cut everything."""
        cut = tuple(self._open)
        for flow in cut:
            flow.cut(why)
        return cut


def _is_allowed(index: PolicyIndex, flow: Flow, now: float) -> bool:
    if not decide_claims(index, flow.claims, now).is_allowed:
        return False
    return not flow.addresses or vet(index, flow.claims[0], flow.addresses, now)[0].is_allowed


@functools.lru_cache(SHARED_MAX)
def shared(
    claims: tuple[Destination, ...], addresses: tuple[IPv4Address | IPv6Address, ...]
) -> tuple[tuple[Destination, ...], tuple[IPv4Address | IPv6Address, ...]]:
    """The same values, as the objects that the first connection with them had."""
    return claims, addresses
