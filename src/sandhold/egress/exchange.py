"""HTTP/1 that we read: each request on the connection is decided again, recorded, and answered or forwarded.

1. A request is for the host that its own head names. On a connection that was opened for a name it must be that name,
   and the far end that is dialled is that name's; an explicit-proxy client may name another host each time.
2. A denied request ends its connection: what lies behind it in the stream is never looked at.
3. The far end's connection is used again only for the same destination and only on this connection.
4. CONNECT is for the sandbox's own proxy and only as a connection's first request.
5. A synthetic address in a head is the name it stands for, also in the head that is sent on.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from sandhold.egress.denial import (
    InHttp,
    because,
    connection_event,
    note_request_end,
    record_events,
    refuse,
    report_failure,
)
from sandhold.egress.destinations import name_destination
from sandhold.egress.first_bytes import OPENING_TIMEOUT_S, Missing, Patience, read_first_bytes
from sandhold.egress.forwarding import Turn, forward
from sandhold.egress.upstream import DeniedLateError, UpstreamFailedError
from sandhold.model.decision import Decision, Reason
from sandhold.model.destination import Destination, Source
from sandhold.model.event import Closed, Request, Why
from sandhold.policy.decide import decide_claims
from sandhold.wire.opening import (
    ConnectOpening,
    Http2Preface,
    HttpOpening,
    MalformedOpening,
    Opaque,
    TlsOpening,
)

if TYPE_CHECKING:
    from sandhold.egress.flows import Flow
    from sandhold.egress.gateway import Gateway
    from sandhold.egress.stream import Stream
    from sandhold.egress.upstream import Dialled
    from sandhold.wire.request_head import RequestHead

KEEP_ALIVE_S: Final = 120.0  # between two requests: what common servers allow, or more
_NEXT_HEAD: Final = Patience(KEEP_ALIVE_S, OPENING_TIMEOUT_S)

Verdict = tuple[tuple[Destination, ...], Decision, str | None]
"""What a request claims, what was decided on it, and the detail to record; the first claim is what would be dialled."""


async def exchange(
    gateway: Gateway, flow: Flow, named: Destination | None, head: RequestHead, dialled: Dialled | None = None
) -> None:
    """Serve the requests of one connection, from a first head that was taken out of the stream already.

    `named` is None for an explicit-proxy client; `dialled` is a far end that was let in before the client spoke.
    """
    gateway.flows.has_opened(flow)
    far_end = (named, dialled) if named is not None and dialled is not None else None
    while True:
        head = _resolve_literal(gateway, head)
        verdict = _judge(gateway, named, head)
        turn = Turn(gateway.new_event(), head, gateway.reactor.clock(), flow.bytes_up, flow.bytes_down)
        try:
            decision = await _record(gateway, flow, turn, verdict)
            if not decision.is_allowed:
                claims, _, detail = verdict
                await refuse(gateway, flow, claims, decision, InHttp(head), detail=detail, event=turn.event)
                return
            far_end = await _reach(gateway, flow, turn, verdict, far_end)
            if far_end is None or not await forward(gateway, flow, turn, *far_end):
                return
        except OSError:
            flow.end(Why.DOWNSTREAM_GONE)
            raise
        finally:
            note_request_end(gateway, flow, _closed(gateway, flow, turn))
        following = await _next_head(gateway, flow, named)
        if following is None:
            return
        head = following


def _resolve_literal(gateway: Gateway, head: RequestHead) -> RequestHead:
    """Put the name in the place of a synthetic address, which means nothing to the far end (rule 5)."""
    if head.authority is None or not isinstance(head.authority[0], IPv4Address | IPv6Address):
        return head
    host, port = head.authority
    claimed = name_destination(gateway.names, host, port, Source.HTTP_HOST)
    return head if isinstance(claimed, Reason) else replace(head, authority=(claimed.host, port))


def _judge(gateway: Gateway, named: Destination | None, head: RequestHead) -> Verdict:
    """Judge everything a request claims (rules 1 and 4)."""
    if head.authority is None:
        if named is None:
            return (), because(gateway, Reason.MALFORMED), "the request names no host"
        claims: tuple[Destination, ...] = (named,)
    else:
        host, port = head.authority
        if named is not None and not head.names_port:
            port = named.port
        claimed = name_destination(gateway.names, host, port, Source.HTTP_HOST)
        if isinstance(claimed, Reason):
            return (Destination(host, port, Source.HTTP_HOST),), because(gateway, claimed), None
        claims = (claimed,) if named is None else (named, claimed)
    decision = decide_claims(gateway.index, claims, gateway.now())
    if head.method == "CONNECT" and decision.is_allowed:
        return claims, because(gateway, Reason.NO_PROTOCOL), "CONNECT is for the sandbox's own proxy"
    return claims, decision, None


async def _record(gateway: Gateway, flow: Flow, turn: Turn, verdict: Verdict) -> Decision:
    """Record the decision on a request, and with the first one the connection's."""
    claims, decision, detail = verdict
    request = _request_event(flow, turn, verdict)
    if flow.is_recorded:
        return await record_events(gateway, flow, claims, (request,))
    return await record_events(gateway, flow, claims, (connection_event(flow, claims, decision, detail), request))


async def _reach(
    gateway: Gateway, flow: Flow, turn: Turn, verdict: Verdict, far_end: tuple[Destination, Dialled] | None
) -> tuple[Destination, Dialled] | None:
    """Find or dial the far end of a request; None when the sandbox was told that it came to nothing."""
    claims, decision, _ = verdict
    destination = claims[0]
    if far_end is not None and _is_same(far_end[0], destination) and _is_fresh(far_end[1].stream):
        turn.is_reused = flow.status is not None
        return far_end
    try:
        dialled = await gateway.upstream.dial(
            destination,
            lambda: gateway.index,
            gateway.now,
            lambda: decide_claims(gateway.index, claims, gateway.now()),
        )
    except DeniedLateError as late:
        detail = str(late)
        denied = await record_events(
            gateway, flow, claims, (_request_event(flow, turn, (claims, late.decision, detail)),)
        )
        flow.end(Why.REFUSED, detail)  # which addresses the host's resolver knows is for the record alone
        await refuse(gateway, flow, claims, denied, InHttp(turn.head), event=turn.event)
        return None
    except UpstreamFailedError as failure:
        turn.status = failure.status
        await report_failure(gateway, flow, destination, decision, failure, InHttp(turn.head), event=turn.event)
        return None
    flow.take(dialled)
    return destination, dialled


async def _next_head(gateway: Gateway, flow: Flow, named: Destination | None) -> RequestHead | None:
    """Read the head of the next request; None when there is none, and what there is instead was refused."""
    flow.downstream.expect_answer()
    opening = await read_first_bytes(gateway.reactor, flow.downstream, _NEXT_HEAD)
    match opening:
        case HttpOpening(head, consumed) | ConnectOpening(head, consumed):
            flow.downstream.skip(consumed)
            return head
        case Missing.ENDED | Missing.SILENT:
            flow.end(Why.DONE)
            return None
        case Missing.LATE:
            decision, status, detail = because(gateway, Reason.OPENING_TIMEOUT), 408, None
        case MalformedOpening(detail, reason, status):
            decision = because(gateway, reason)
        case TlsOpening() | Opaque() | Http2Preface():
            decision, status, detail = because(gateway, Reason.MALFORMED), 400, "no HTTP/1 behind a request"
    claims = () if named is None else (named,)
    event = gateway.new_event()
    request = Request(event, flow.event, flow.via, named, claims, "", "", decision, detail, flow.user)
    try:
        decision = await record_events(gateway, flow, claims, (request,))
        await refuse(gateway, flow, claims, decision, InHttp(None, status or 400), detail=detail, event=event)
    finally:
        note_request_end(gateway, flow, Closed(event, None, 0, 0, 0.0, flow.why or Why.REFUSED, detail))
    return None


def _request_event(flow: Flow, turn: Turn, verdict: Verdict) -> Request:
    claims, decision, detail = verdict
    head = turn.head
    destination = claims[0] if claims else None
    return Request(
        event=turn.event,
        connection=flow.event,
        via=flow.via,
        destination=destination,
        claims=claims,
        method=head.method,
        path=head.path_without_query,
        decision=decision,
        detail=detail,
        user=flow.user,
    )


def _closed(gateway: Gateway, flow: Flow, turn: Turn) -> Closed:
    """The end record of a request: its part of the connection's."""
    return Closed(
        event=turn.event,
        status=turn.status,
        bytes_up=flow.bytes_up - turn.bytes_up,
        bytes_down=flow.bytes_down - turn.bytes_down,
        duration_s=round(gateway.reactor.clock() - turn.started, 6),
        why=flow.why or Why.DONE,
        detail=flow.detail,
    )


def _is_same(one: Destination, other: Destination) -> bool:
    return (one.host, one.port) == (other.host, other.port)


def _is_fresh(upstream: Stream) -> bool:
    """Whether a connection can be used again: the far end has neither closed it nor spoken out of turn."""
    if upstream.early or upstream.fileno() < 0:
        return False
    try:
        upstream.sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
