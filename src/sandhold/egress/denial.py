"""Puts decisions on record and tells the sandbox no, in the way its connection can understand.

1. A decision is on durable record before anything follows from it; when it cannot be, or the session has filled its
   share of the trail, it becomes a denial.
2. A connection that was allowed and is denied later (by the addresses behind its name, by a newer policy, by what its
   first bytes say) has a second record of the same event, with the effect deny.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sandhold.egress.gateway import RecordUnavailableError
from sandhold.egress.refusal import Refusal, refuse_http, refuse_tls
from sandhold.model.decision import Decision, Reason
from sandhold.model.event import Connection, Request, Why
from sandhold.model.rule import Effect

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sandhold.egress.flows import Flow
    from sandhold.egress.gateway import Gateway
    from sandhold.egress.upstream import UpstreamFailedError
    from sandhold.model.destination import Destination, Host
    from sandhold.model.event import Closed, EventId
    from sandhold.wire.request_head import RequestHead

REFUSAL_TIMEOUT_S: Final = 20.0  # for the whole refusal: a handshake, one request, one answer, the rest of an upload


@dataclass(frozen=True, slots=True)
class InTls:
    """The refusal is an answer over TLS, in this name."""

    server_name: Host


@dataclass(frozen=True, slots=True)
class InHttp:
    """The refusal is an answer in plain HTTP/1; `head` is None when the request could not be read."""

    head: RequestHead | None
    status: int = 403


@dataclass(frozen=True, slots=True)
class Reset:
    """The refusal is a reset: the protocol has no words for it, or we have none in it."""


Manner = InTls | InHttp | Reset


def because(gateway: Gateway, reason: Reason) -> Decision:
    """Deny for a reason of our own."""
    return Decision(Effect.DENY, reason, None, gateway.index.policy.generation)


def connection_event(
    flow: Flow, claims: tuple[Destination, ...], decision: Decision, detail: str | None = None
) -> Connection:
    """The record of a decision on the whole connection; the first claim is its destination."""
    destination = claims[0] if claims else None
    return Connection(flow.event, flow.via, destination, claims, flow.original, decision, detail, flow.user)


def record_decision(
    gateway: Gateway, flow: Flow, claims: tuple[Destination, ...], decision: Decision, detail: str | None = None
) -> Awaitable[Decision]:
    """Record what was decided on a connection; to be awaited for the decision that holds by rule 1."""
    return record_events(gateway, flow, claims, (connection_event(flow, claims, decision, detail),))


async def record_events(
    gateway: Gateway, flow: Flow, claims: tuple[Destination, ...], events: tuple[Connection | Request, ...]
) -> Decision:
    """Record decisions together; returns the last of them, or the denial that it becomes by rule 1.

    From here on the connection is judged again, by these claims, whenever the policy changes.
    """
    decision = events[-1].decision
    if decision.is_allowed and gateway.is_trail_spent():
        decision = because(gateway, Reason.TRAIL_SPENT)
        events = tuple(replace(event, decision=decision) for event in events)
    if not flow.is_recorded:
        flow.is_recorded = True
        flow.started = gateway.reactor.clock()
    flow.claims = claims if decision.is_allowed else ()
    try:
        flow.counted_as = await gateway.record(*events)
    except RecordUnavailableError:
        flow.claims = ()
        decision = because(gateway, Reason.RECORD_UNAVAILABLE)
        flow.off_record += tuple(replace(event, decision=decision) for event in events)
    else:
        flow.is_durable = True
    return decision


def note_request_end(gateway: Gateway, flow: Flow, closed: Closed) -> None:
    """Note the end of a request: behind its record, wherever that is."""
    if flow.off_record:
        flow.off_record += (closed,)
    else:
        gateway.note(closed)


def note_end(gateway: Gateway, flow: Flow) -> None:
    """Note the end of a connection.

    What is not on record is noted together and may be counted instead: it must not pile up while nothing can be
    written. The end of what is on record is never lost.
    """
    closed = flow.closed(gateway.reactor.clock())
    if not flow.is_durable:
        flow.off_record += (closed,)
    if flow.off_record:
        gateway.note_denial(*flow.off_record)
    if flow.is_durable:
        gateway.note(closed)


async def deny(
    gateway: Gateway,
    flow: Flow,
    claims: tuple[Destination, ...],
    decision: Decision,
    manner: Manner,
    *,
    detail: str | None = None,
) -> None:
    """Record a denial of the connection, then refuse it."""
    assert not decision.is_allowed
    decision = await record_decision(gateway, flow, claims, decision, detail)
    await refuse(gateway, flow, claims, decision, manner, detail=detail)


async def refuse(  # noqa: PLR0913  what is on record and what is answered
    gateway: Gateway,
    flow: Flow,
    claims: tuple[Destination, ...],
    decision: Decision,
    manner: Manner,
    *,
    detail: str | None = None,
    event: EventId | None = None,
) -> None:
    """Refuse what is on record as denied; ends the connection. `event` is the request's where there is one."""
    flow.end(Why.REFUSED, detail)
    status = manner.status if isinstance(manner, InHttp) else 403
    destination = claims[0] if claims else None
    on_record = flow.counted_as or event or flow.event
    refusal = Refusal(on_record, destination, decision, gateway.sandbox, status, detail)
    await _answer(gateway, flow, refusal, manner)


async def report_failure(  # noqa: PLR0913  what is on record and what is answered
    gateway: Gateway,
    flow: Flow,
    destination: Destination,
    decision: Decision,
    failure: UpstreamFailedError,
    manner: Manner,
    *,
    event: EventId | None = None,
) -> None:
    """Tell the sandbox that an allowed destination cannot be had; ends the connection."""
    flow.end(failure.why, str(failure))
    if not isinstance(manner, Reset):
        flow.status = failure.status
    refusal = Refusal(event or flow.event, destination, decision, gateway.sandbox, failure.status, str(failure))
    await _answer(gateway, flow, refusal, manner)


async def _answer(gateway: Gateway, flow: Flow, refusal: Refusal, manner: Manner) -> None:
    deadline = gateway.reactor.clock() + REFUSAL_TIMEOUT_S
    match manner:
        case InTls(server_name):
            problem = await refuse_tls(
                gateway.reactor, flow.downstream, refusal, gateway.authority(), server_name, deadline
            )
            flow.detail = flow.detail or problem
        case InHttp(head):
            await refuse_http(flow.downstream, refusal, head, deadline)
        case Reset():
            flow.downstream.reset()
