"""The life of one connection, top to bottom: read the opening, name the destination, decide, record, refuse or relay.

Rules (product.md calls them what the sandbox sees):

1. Every name the connection claims is judged: where it was dialled to, the CONNECT, the server name, the `Host`.
2. TLS without a server name is denied, unless it was opened for an address.
3. On ports 80 and 443 a client speaks first, and in TLS or HTTP/1. On other ports the far end may speak first, and an
   allowed destination may be spoken to in anything but TLS or HTTP that breaks off or hides behind empty lines.
4. What was read is forwarded only after the decision on it is on record.
5. A denial is answered over TLS or HTTP where the client speaks that, by a reset elsewhere; never by silence.
6. Whatever goes wrong in here denies this connection and no other.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Final

from sandhold.egress.denial import (
    InHttp,
    InTls,
    Manner,
    Reset,
    because,
    connection_event,
    deny,
    note_end,
    record_decision,
    refuse,
    report_failure,
)
from sandhold.egress.destinations import is_explicit, name_destination
from sandhold.egress.exchange import exchange
from sandhold.egress.first_bytes import OPENING_TIMEOUT_S, SILENCE_S, Missing, Patience, read_first_bytes
from sandhold.egress.flows import Flow
from sandhold.egress.relay import IDLE_S, Relay
from sandhold.egress.stream import Stream
from sandhold.egress.upstream import DeniedLateError, Dialled, UpstreamFailedError
from sandhold.model.decision import Decision, Reason
from sandhold.model.destination import Destination, DomainName, HostService, Source, destination_of
from sandhold.model.event import Established, Via, Why
from sandhold.policy.decide import decide, decide_claims
from sandhold.wire.opening import (
    ConnectOpening,
    Http2Preface,
    HttpOpening,
    MalformedOpening,
    Opaque,
    TlsOpening,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable

    from sandhold.egress.gateway import Gateway
    from sandhold.wire.opening import Opening
    from sandhold.wire.request_head import RequestHead

WEB_PORTS: Final = frozenset({80, 443})  # where silence and unknown protocols are denied (rule 3)
ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
TUNNELLED: Final = 200  # what goes on record as the status of bytes that we do not read
_TLS_PORTS: Final = frozenset({443, 8443})  # where a refused CONNECT is answered inside, so that every client shows why
_WHOLE: Final = Patience(OPENING_TIMEOUT_S, OPENING_TIMEOUT_S)
_ALLOWED: Final = Patience(SILENCE_S, OPENING_TIMEOUT_S)
_DENIED: Final = Patience(SILENCE_S, SILENCE_S)


async def handle(gateway: Gateway, sock: socket.socket) -> None:
    """Live through one accepted connection and leave its end on record; a relay may do so when this has returned."""
    reactor = gateway.reactor
    downstream = Stream(reactor, sock)
    flow = Flow(gateway.new_event(), Via.TRANSPARENT, None, downstream, reactor.current(), reactor.clock())
    gateway.flows.add(flow)
    try:
        await _live(gateway, flow)
    except OSError:
        flow.end(Why.DOWNSTREAM_GONE)
        flow.reset()
    except Exception:  # noqa: BLE001  rule 6
        traceback.print_exc(file=sys.stderr)
        await _deny_ourselves(gateway, flow)
    finally:
        if flow.relay is None:
            _close(gateway, flow)


def _close(gateway: Gateway, flow: Flow) -> None:
    """Close both sides, and leave the end on record."""
    if flow.why not in (None, Why.DONE, Why.REFUSED):
        flow.reset()
    flow.downstream.close()
    if flow.upstream is not None:
        flow.upstream.close()
    gateway.flows.remove(flow)
    if not flow.is_recorded:  # it ended before there was a decision on it
        flow.off_record += (connection_event(flow, flow.named, _decide_named(gateway, flow)),)
    note_end(gateway, flow)


async def _live(gateway: Gateway, flow: Flow) -> None:
    original = gateway.original_destination(flow.downstream.sock)
    flow.user = gateway.user_of(flow.downstream.sock, original)
    if is_explicit(original):
        flow.via = Via.PROXY
        connected = await _serve_proxy_client(gateway, flow)
        if connected is not None:
            await _serve(gateway, flow, connected)
        return
    flow.original = original
    named = name_destination(gateway.names, *original, Source.ADDRESS)
    if isinstance(named, Reason):
        await _deny_legibly(gateway, flow, named, original[1])
    else:
        flow.named = (named,)
        await _serve(gateway, flow, named)


async def _serve(gateway: Gateway, flow: Flow, named: Destination) -> None:
    """Serve a connection whose destination is named: a captured one, or the inside of an accepted CONNECT."""
    decision = decide(gateway.index, named, gateway.now())
    is_web = named.port in WEB_PORTS
    patience = _WHOLE if is_web else _ALLOWED if decision.is_allowed else _DENIED
    opening = await read_first_bytes(gateway.reactor, flow.downstream, patience)
    match opening:
        case TlsOpening():
            await _serve_tls(gateway, flow, named, opening)
        case HttpOpening(head, consumed):
            flow.downstream.skip(consumed)
            await exchange(gateway, flow, named, head)
        case Opaque() | Http2Preface() | Missing.ENDED if decision.is_allowed and not is_web:
            await _pass_through(gateway, flow, named, flow.named, Reset())
        case Missing.SILENT if decision.is_allowed and not is_web:
            await _serve_server_first(gateway, flow, named)
        case Missing.ENDED:
            flow.end(Why.DOWNSTREAM_GONE)
        case ConnectOpening() | Opaque() | Http2Preface() | MalformedOpening() | Missing():
            await _deny_opening(gateway, flow, decision, opening)


def _serve_tls(gateway: Gateway, flow: Flow, named: Destination, opening: TlsOpening) -> Awaitable[None]:
    claims, decision = _judge_tls(gateway, flow, named, opening)
    manner = InTls(opening.hello.server_name or named.host)
    if decision.is_allowed:
        return _pass_through(gateway, flow, named, claims, manner)
    return deny(gateway, flow, claims, decision, manner)


def _judge_tls(
    gateway: Gateway, flow: Flow, named: Destination, opening: TlsOpening
) -> tuple[tuple[Destination, ...], Decision]:
    """Judge a ClientHello by rules 1 and 2."""
    server_name = opening.hello.server_name
    if server_name is not None:
        claims = (*flow.named, destination_of(server_name, named.port, Source.SNI))
        return claims, decide_claims(gateway.index, claims, gateway.now())
    decision = decide_claims(gateway.index, flow.named, gateway.now())
    if decision.is_allowed and isinstance(named.host, DomainName | HostService):
        decision = because(gateway, Reason.SNI_MISSING)
    return flow.named, decision


async def _pass_through(
    gateway: Gateway, flow: Flow, named: Destination, claims: tuple[Destination, ...], manner: Manner
) -> None:
    """Record the permission, dial, and carry the bytes unread."""
    dialled = await _reach(gateway, flow, named, claims, manner)
    if dialled is not None:
        _hand_over(flow, Relay(gateway, flow, dialled.stream))


def _hand_over(flow: Flow, relay: Relay) -> None:
    """Let a relay live the rest of the connection: a tunnel that is idle costs no task."""
    flow.hand_over(relay)
    relay.carry_both(_close)


async def _reach(
    gateway: Gateway, flow: Flow, named: Destination, claims: tuple[Destination, ...], manner: Manner
) -> Dialled | None:
    """Record the permission and dial; None when the sandbox was told that it came to nothing."""

    def decide_now() -> Decision:
        return decide_claims(gateway.index, claims, gateway.now())

    decision = await record_decision(gateway, flow, claims, decide_now())
    if not decision.is_allowed:
        await refuse(gateway, flow, claims, decision, manner)
        return None
    try:
        dialled = await gateway.upstream.dial(named, lambda: gateway.index, gateway.now, decide_now)
    except DeniedLateError as late:
        denied = await record_decision(gateway, flow, claims, late.decision, str(late))
        flow.end(Why.REFUSED, str(late))  # which addresses the host's resolver knows is for the record alone
        await refuse(gateway, flow, claims, denied, manner)
        return None
    except UpstreamFailedError as failure:
        await report_failure(gateway, flow, named, decision, failure, manner)
        return None
    flow.take(dialled)
    flow.status = TUNNELLED
    gateway.flows.has_opened(flow)
    gateway.note(Established(flow.event, TUNNELLED, dialled.resolved, dialled.address, dialled.proxy))
    return dialled


async def _serve_server_first(gateway: Gateway, flow: Flow, named: Destination) -> None:
    """Let the far end speak first; what the client says then is judged before it is forwarded (rule 4)."""
    dialled = await _reach(gateway, flow, named, flow.named, Reset())
    if dialled is None:
        return
    relay = Relay(gateway, flow, dialled.stream)
    try:
        relay.carry_down()
        opening = await _hear_client(gateway, flow)
        if isinstance(opening, HttpOpening) and flow.bytes_down == 0 and not relay.down.is_ended:
            relay.stop()
            flow.downstream.skip(opening.consumed)
            await exchange(gateway, flow, named, opening.head, dialled)
        elif await _may_follow(gateway, flow, named, opening):
            _hand_over(flow, relay)
    finally:
        if flow.relay is None:
            relay.stop()


async def _hear_client(gateway: Gateway, flow: Flow) -> Opening | Missing:
    """Wait for what a client says behind the far end, which may go on for as long as it likes meanwhile."""
    reactor = gateway.reactor
    while True:
        patience = Patience(flow.active_at + IDLE_S - reactor.clock(), OPENING_TIMEOUT_S)
        opening = await read_first_bytes(reactor, flow.downstream, patience)
        if opening is not Missing.SILENT or reactor.clock() >= flow.active_at + IDLE_S:
            return opening


async def _may_follow(gateway: Gateway, flow: Flow, named: Destination, opening: Opening | Missing) -> bool:
    """Judge what a client says after the far end was let in; a denial resets both sides."""
    match opening:
        case Opaque() | Http2Preface() | Missing.ENDED:
            return True
        case TlsOpening():
            claims, decision = _judge_tls(gateway, flow, named, opening)
            decision = await record_decision(gateway, flow, claims, decision)
            if decision.is_allowed:
                return True
            await refuse(gateway, flow, claims, decision, Reset())
        case Missing.SILENT:
            flow.end(Why.IDLE)
        case HttpOpening() | ConnectOpening() | MalformedOpening() | Missing():
            await _deny_opening(gateway, flow, because(gateway, Reason.NO_PROTOCOL), opening, Reset())
    flow.reset()
    return False


async def _serve_proxy_client(gateway: Gateway, flow: Flow) -> Destination | None:
    """Serve a client that knows it talks to a proxy, up to a CONNECT that is accepted: returns where that leads.

    What is inside is for the caller, so that the head and what read it are not held while a far end is dialled.
    """
    opening = await read_first_bytes(gateway.reactor, flow.downstream, _WHOLE)
    match opening:
        case ConnectOpening(head, consumed):
            flow.downstream.skip(consumed)
            return await _accept_connect(gateway, flow, head)
        case HttpOpening(head, consumed):
            flow.downstream.skip(consumed)
            await exchange(gateway, flow, None, head)
        case Missing.ENDED:
            flow.end(Why.DOWNSTREAM_GONE)
        case TlsOpening() | Opaque() | Http2Preface() | MalformedOpening() | Missing():
            await _deny_opening(gateway, flow, because(gateway, Reason.MALFORMED), opening)
    return None


async def _accept_connect(gateway: Gateway, flow: Flow, head: RequestHead) -> Destination | None:
    """Say yes to a CONNECT, or no where the far side of it could not be told why."""
    assert head.authority is not None, "a CONNECT names its authority"
    named = name_destination(gateway.names, *head.authority, Source.CONNECT)
    if isinstance(named, Reason):
        claims = (Destination(*head.authority, Source.CONNECT),)
        await deny(gateway, flow, claims, because(gateway, named), InHttp(head))
        return None
    flow.named = (named,)
    decision = decide(gateway.index, named, gateway.now())
    if not decision.is_allowed and named.port not in _TLS_PORTS:
        await deny(gateway, flow, flow.named, decision, InHttp(head))
        return None
    await flow.downstream.write(ESTABLISHED, gateway.reactor.clock() + OPENING_TIMEOUT_S)
    flow.downstream.expect_answer()
    return named


async def _deny_opening(
    gateway: Gateway, flow: Flow, decision: Decision, opening: Opening | Missing, manner: Manner | None = None
) -> None:
    """Deny what cannot be an opening here. A destination that is denied anyway is the reason that is named."""
    detail: str | None = None
    in_words: Manner = Reset()
    match opening:
        case MalformedOpening(problem, reason, status):
            detail, decision = problem, because(gateway, reason)
            in_words = Reset() if status is None else InHttp(None, status)
        case ConnectOpening(head):
            decision = because(gateway, Reason.NO_PROTOCOL) if decision.is_allowed else decision
            detail = "CONNECT is for the sandbox's own proxy"
            in_words = InHttp(head)
        case Missing.SILENT | Missing.LATE:
            decision = because(gateway, Reason.OPENING_TIMEOUT) if _is_ours(decision) else decision
        case TlsOpening() | HttpOpening() | Opaque() | Http2Preface() | Missing.ENDED:
            decision = because(gateway, Reason.NO_PROTOCOL) if _is_ours(decision) else decision
    await deny(gateway, flow, flow.named, decision, manner or in_words, detail=detail)


def _is_ours(decision: Decision) -> bool:
    """Whether no rule of the policy is what denies here."""
    return decision.is_allowed or decision.reason in (Reason.MALFORMED, Reason.NO_PROTOCOL)


async def _deny_legibly(gateway: Gateway, flow: Flow, reason: Reason, port: int) -> None:
    """Deny a connection that is headed nowhere, in the words of what it says."""
    patience = _WHOLE if port in WEB_PORTS else _DENIED
    opening = await read_first_bytes(gateway.reactor, flow.downstream, patience)
    manner: Manner = Reset()
    claims: tuple[Destination, ...] = ()
    match opening:
        case TlsOpening(hello) if hello.server_name is not None:
            claims = (Destination(hello.server_name, port, Source.SNI),)
            manner = InTls(hello.server_name)
        case HttpOpening(head) | ConnectOpening(head):
            manner = InHttp(head)
    await deny(gateway, flow, claims, because(gateway, reason), manner)


def _decide_named(gateway: Gateway, flow: Flow) -> Decision:
    if not flow.named:
        return because(gateway, Reason.MALFORMED)
    return decide_claims(gateway.index, flow.named, gateway.now())


async def _deny_ourselves(gateway: Gateway, flow: Flow) -> None:
    """We are wrong: the connection is denied, and it is on record that we are the reason."""
    flow.reset()
    await record_decision(gateway, flow, flow.named, because(gateway, Reason.INTERNAL_ERROR))
    flow.end(Why.REFUSED)
