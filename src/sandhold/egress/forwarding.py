"""One allowed HTTP/1 request to the far end and its response back.

1. Heads are rebuilt (`wire`), bodies are carried as they are.
2. Request and response go at the same time: a far end may answer before it has heard everything, or only after it said
   that it wants to (`Expect: 100-continue`).
3. A far end that breaks HTTP is a 502 as long as the sandbox has seen nothing of its response, a reset afterwards.
4. A connection is used for another request only when both messages had an end of their own and were seen to it.
5. A far end that closes a connection at the moment it is used again is closed towards the sandbox without an answer,
   as it would have been seen without us: the client knows which requests it may repeat.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.egress.body import BODY_IDLE_S, SourceBrokenError, carry_body, take_read_body
from sandhold.egress.denial import InHttp, because, record_events, refuse, report_failure
from sandhold.egress.refusal import drain
from sandhold.egress.relay import relay
from sandhold.egress.stream import READ_BYTES
from sandhold.egress.upstream import UpstreamFailedError
from sandhold.model.decision import Decision, Reason
from sandhold.model.event import Established, Request, Why
from sandhold.policy.decide import decide
from sandhold.wire.chunked import MalformedBodyError
from sandhold.wire.framing import Chunked, NoBody, UntilClose
from sandhold.wire.need_more import NEED_MORE
from sandhold.wire.request_head import upstream_head
from sandhold.wire.response_head import MalformedHeadError, ResponseHead, downstream_head, read_response_head

if TYPE_CHECKING:
    from sandhold.egress.flows import Flow
    from sandhold.egress.gateway import Gateway
    from sandhold.egress.reactor import Reactor, Task
    from sandhold.egress.stream import Stream
    from sandhold.egress.upstream import Dialled
    from sandhold.model.destination import Destination
    from sandhold.model.event import EventId
    from sandhold.wire.framing import ResponseFraming
    from sandhold.wire.request_head import RequestHead

RESPONSE_HEAD_BYTES_MAX: Final = 128 * 1024  # with what came behind it; `wire` refuses longer heads before
LINGER_S: Final = 5.0  # for a client to notice an early answer and stop its upload
INTERIM_MAX: Final = 16  # 1xx answers to one request; more is a flood


@dataclass(slots=True)
class Turn:
    """One request: what is on record about it, and the connection's counts when it started."""

    event: EventId
    head: RequestHead
    started: float
    bytes_up: int
    bytes_down: int
    is_reused: bool = False
    is_answered: bool = False
    status: int | None = None


@dataclass(slots=True)
class _Upload:
    """How the request's body fared."""

    is_done: bool = False
    error: Exception | None = None


class _AnswerFailedError(Exception):
    """The far end did not answer in HTTP/1; `status` is what the sandbox is told, `str()` the detail."""

    def __init__(self, why: Why, status: int, detail: str, *, is_silent: bool = False) -> None:
        super().__init__(detail)
        self.why = why
        self.status = status
        self.is_silent = is_silent


async def forward(gateway: Gateway, flow: Flow, turn: Turn, destination: Destination, dialled: Dialled) -> bool:
    """Send a request, bring back its response; whether another request may follow on this connection.

    Raises:
        OSError: when the downstream side is gone.
    """
    upload = _Upload(is_done=isinstance(turn.head.framing, NoBody))
    sending = _start_sending(gateway, flow, turn, dialled.stream, upload)
    failure: Exception | None = None
    try:
        response, rest = await _bring_head(gateway, flow, turn, dialled)
        if response.is_upgrade:
            await relay(gateway, flow, dialled.stream)
            return False
        await carry_body(gateway.reactor, dialled.stream, flow.downstream, rest, flow.count_down)
    except (_AnswerFailedError, SourceBrokenError, MalformedBodyError) as error:
        failure = error
    finally:
        if sending is not None:
            sending.cancel()
    if sending is not None:
        await sending.join(gateway.reactor.clock() + LINGER_S)  # from here on nobody else reads what the client sends
    if failure is not None:
        await _fail(gateway, flow, turn, destination, upload, failure)
        return False
    if not upload.is_done:
        await _linger(gateway, flow)
    if not upload.is_done or _ends(turn.head, response):
        return False
    if not response.is_keep_alive:
        dialled.stream.close()
    return True


async def _linger(gateway: Gateway, flow: Flow) -> None:
    """End our direction and let the rest of an upload run out, or a reset would take the answer back (RFC 9112 9.6)."""
    flow.downstream.end_writing()
    with contextlib.suppress(OSError):
        await drain(flow.downstream, gateway.reactor.clock() + LINGER_S)


def _start_sending(gateway: Gateway, flow: Flow, turn: Turn, upstream: Stream, upload: _Upload) -> Task | None:
    """Send what can be sent at once, and leave the rest of head and body to a task; None when there is none.

    What goes wrong is found by who waits for the response.
    """
    body, framing = take_read_body(flow.downstream, turn.head.framing)
    first = upstream_head(turn.head) + body
    flow.count_up(len(first))
    try:
        sent = upstream.write_now(first)
    except OSError:
        return None
    upstream.expect_answer()
    if sent == len(first) and isinstance(framing, NoBody):
        upload.is_done = True
        return None
    sending = _send(gateway, flow, first[sent:], framing, upstream, upload)
    return gateway.reactor.spawn(sending, "upload")


async def _send(
    gateway: Gateway, flow: Flow, first: bytes, framing: ResponseFraming, upstream: Stream, upload: _Upload
) -> None:
    try:
        await upstream.write(first, gateway.reactor.clock() + BODY_IDLE_S)
        await carry_body(gateway.reactor, flow.downstream, upstream, framing, flow.count_up)
        upload.is_done = True
    except (SourceBrokenError, MalformedBodyError) as error:
        upload.error = error
        upstream.reset()
    except OSError:
        return  # the far end takes no more of it; its answer, if any, is on its way


async def _bring_head(
    gateway: Gateway, flow: Flow, turn: Turn, dialled: Dialled
) -> tuple[ResponseHead, ResponseFraming]:
    """Forward the heads up to and including the final one, and what of a body came with that; and say what is left."""
    for _ in range(INTERIM_MAX):
        response = await _read_head(gateway.reactor, dialled.stream, turn.head.method)
        if response.is_upgrade and turn.head.upgrade is None:
            raise _AnswerFailedError(Why.UPSTREAM_GONE, 502, "it changed the protocol without being asked")
        if isinstance(response.framing, Chunked) and turn.head.version == "HTTP/1.0":
            raise _AnswerFailedError(Why.UPSTREAM_GONE, 502, "it sent chunks to an HTTP/1.0 client")
        if not response.is_interim:
            turn.is_answered = True
            turn.status = flow.status = response.status
            gateway.note(Established(turn.event, response.status, dialled.resolved, dialled.address, dialled.proxy))
        is_last = not response.is_interim
        if is_last or turn.head.version == "HTTP/1.1":  # RFC 9110 section 15.2: HTTP/1.0 knows no interim answers
            head = downstream_head(response, close=is_last and _ends(turn.head, response))
            body, rest = take_read_body(dialled.stream, response.framing) if is_last else (b"", response.framing)
            flow.count_down(len(head) + len(body))
            await flow.downstream.write(head + body, gateway.reactor.clock() + BODY_IDLE_S)
            if is_last:
                return response, rest
    raise _AnswerFailedError(Why.UPSTREAM_GONE, 502, "too many interim answers")


async def _read_head(reactor: Reactor, upstream: Stream, method: str) -> ResponseHead:
    buffer = b""
    deadline = reactor.clock() + BODY_IDLE_S
    while len(buffer) < RESPONSE_HEAD_BYTES_MAX:
        try:
            data = await upstream.read(READ_BYTES, deadline)
        except TimeoutError:
            raise _AnswerFailedError(Why.UPSTREAM_TIMEOUT, 504, "no response in time") from None
        except OSError:
            data = b""
        if not data:
            detail = "it closed the connection without a response"
            raise _AnswerFailedError(Why.UPSTREAM_GONE, 502, detail, is_silent=not buffer)
        buffer += data
        try:
            event = read_response_head(buffer, method)
        except MalformedHeadError as error:
            raise _AnswerFailedError(Why.UPSTREAM_GONE, 502, str(error)) from None
        if event is not NEED_MORE:
            head, consumed = event
            upstream.unread(buffer[consumed:])
            return head
    raise _AnswerFailedError(Why.UPSTREAM_GONE, 502, "its response head is too large")


def _ends(request: RequestHead, response: ResponseHead) -> bool:
    """Whether the connection to the sandbox ends with this response (rule 4, RFC 9112 section 9.3)."""
    if isinstance(response.framing, UntilClose) or "HTTP/1.0" in (request.version, response.version):
        return True
    return not request.is_keep_alive


async def _fail(
    gateway: Gateway, flow: Flow, turn: Turn, destination: Destination, upload: _Upload, error: Exception
) -> None:
    """End the connection after a failure, with an answer as long as there was none."""
    if isinstance(upload.error, MalformedBodyError) and not turn.is_answered:
        await _deny_body(gateway, flow, turn, destination, str(upload.error))
    elif upload.error is not None:
        flow.end(Why.DOWNSTREAM_GONE, str(upload.error))
        flow.reset()
    elif turn.is_answered or not isinstance(error, _AnswerFailedError):
        flow.end(Why.UPSTREAM_GONE, str(error))
        flow.reset()
    elif turn.is_reused and error.is_silent:
        flow.end(Why.UPSTREAM_GONE, str(error))
        flow.downstream.close()
    else:
        turn.status = error.status
        decision = _decision_now(gateway, destination)
        failure = UpstreamFailedError(error.why, error.status, str(error))
        await report_failure(gateway, flow, destination, decision, failure, InHttp(turn.head), event=turn.event)


async def _deny_body(gateway: Gateway, flow: Flow, turn: Turn, destination: Destination, detail: str) -> None:
    """A body that is refused makes the request a denied one, on record too."""
    head, claims = turn.head, flow.claims
    decision = because(gateway, Reason.MALFORMED)
    request = Request(
        turn.event, flow.event, flow.via, destination, claims, head.method, head.path_without_query, decision, detail
    )
    decision = await record_events(gateway, flow, claims, (request,))
    await refuse(gateway, flow, (destination,), decision, InHttp(head, 400), detail=detail, event=turn.event)


def _decision_now(gateway: Gateway, destination: Destination) -> Decision:
    return decide(gateway.index, destination, gateway.now())
