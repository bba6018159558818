"""Answers the requests of one TLS connection without an upstream: HTTP/2 or HTTP/1.1, as the client negotiated."""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from sandhold.egress.certificates import MintingLimitError
from sandhold.egress.tls import RECORD_BYTES, TlsStream
from sandhold.wire.request_head import MalformedHeadError, RequestHead, read_request_head

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandhold.egress.reactor import Reactor
    from sandhold.egress.stream import Stream

HANDSHAKE_S: Final = 12.0  # an emulated machine takes one on an idle host, and ten on a busy one
REQUEST_S: Final = 5.0  # from the handshake to the end of the request head
HTTPS_PORT: Final = 443
QUIET_S: Final = 0.25  # after the last answer, for requests that a client sends together
STREAMS_MAX: Final = 32  # answers on one HTTP/2 connection; then GOAWAY, and the client opens another
HEADERS_BYTES_MAX: Final = 16 * 1024  # of one request, as we announce it (RFC 9113 section 6.5.2)
HTTP2_BYTES_MAX: Final = 256 * 1024  # read on one HTTP/2 connection, uploads apart: no 32 requests have as much
UPLOAD_BYTES_MAX: Final = 8 * 1024 * 1024  # taken and dropped, for clients that read an answer only after they sent all


class Answer(Protocol):
    """A whole response; header names are lower case."""

    @property
    def status(self) -> int:
        """The status code."""

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Every field but `:status`."""

    @property
    def body(self) -> bytes:
        """The content, empty for HEAD."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What to say: `any_version` to a request with this method and these headers, `http1` the same as bytes of a whole
    HTTP/1.1 response, for None when the request cannot be read."""

    any_version: Callable[[str, Sequence[tuple[bytes, bytes]]], Answer]
    http1: Callable[[RequestHead | None], bytes]


async def answer_over_tls(
    reactor: Reactor, stream: Stream, make_context: Callable[[], ssl.SSLContext], answers: Answers, deadline: float
) -> str | None:
    """Finish the handshake, answer what is asked, end the connection in order; the stream stays the caller's to close.

    Returns None when every request got its answer, else why not, in a few words of ours.
    """
    try:
        tls = TlsStream(reactor, stream, make_context())
    except MintingLimitError:
        return "too many new names at once"
    problem = await _handshake(reactor, tls, deadline)
    if problem is not None:
        return problem
    is_http2 = tls.application_protocol == "h2"
    conversation = _Http2(reactor, tls, answers) if is_http2 else _Http1(tls, answers)
    try:
        await conversation.serve(min(deadline, reactor.clock() + REQUEST_S))
        problem = "the client left without a request"
    except TimeoutError:
        problem = "no request came in time"
    except OSError:  # ssl.SSLError is one
        problem = "the client broke the connection off"
    with contextlib.suppress(OSError, TimeoutError):  # a client may close as soon as it has its answer
        await tls.end_writing(deadline)
    return None if conversation.is_answered else problem


async def _handshake(reactor: Reactor, tls: TlsStream, deadline: float) -> str | None:
    until = min(deadline, reactor.clock() + HANDSHAKE_S)
    try:
        await tls.handshake(until)
    except TimeoutError:
        return "the TLS handshake took too long"
    except EOFError:
        return "the client left during the TLS handshake"
    except ssl.SSLError as error:
        reason = (error.reason or "").replace("_", " ").lower()
        is_alert = "alert" in reason
        await _say_why(tls, until)
        return "the client rejected the certificate" if is_alert else "the TLS handshake failed"
    except OSError:
        return "the client broke the connection off"
    return None


async def _say_why(tls: TlsStream, deadline: float) -> None:
    try:
        await tls.say_why(deadline)
    except (OSError, TimeoutError):
        return


class _Http1:
    """One HTTP/1.1 connection that gets one answer."""

    __slots__ = ("_answers", "_tls", "is_answered")

    def __init__(self, tls: TlsStream, answers: Answers) -> None:
        self._tls = tls
        self._answers = answers
        self.is_answered = False

    async def serve(self, deadline: float) -> None:
        """Read a request head, or what can be none, and answer it; return without when the client leaves."""
        buffer = b""
        head: RequestHead | None = None
        while True:
            data = await self._tls.read(RECORD_BYTES, deadline)
            if not data:
                return
            buffer += data
            try:
                event = read_request_head(buffer, default_port=HTTPS_PORT)
            except MalformedHeadError:
                break
            if isinstance(event, tuple):
                head = event[0]
                break
        await self._tls.end_writing(deadline, self._answers.http1(head))
        self.is_answered = True


class _Http2:
    """One HTTP/2 connection (RFC 9113) on which every stream gets its answer as soon as its headers are there."""

    __slots__ = ("_answered", "_answers", "_connection", "_reactor", "_tls", "_uploaded", "_waiting")

    def __init__(self, reactor: Reactor, tls: TlsStream, answers: Answers) -> None:
        self._reactor = reactor
        self._tls = tls
        self._answers = answers
        self._answered = 0
        self._uploaded = 0
        self._waiting: dict[int, bytes] = {}  # bodies that the client's flow-control window has no room for yet
        self._connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS_MAX,
                SettingCodes.MAX_HEADER_LIST_SIZE: HEADERS_BYTES_MAX,
            },
        )

    @property
    def is_answered(self) -> bool:
        """Whether there was a request and every one has its whole answer."""
        return self._answered > 0 and not self._waiting

    async def serve(self, deadline: float) -> None:
        """Answer until the client leaves, falls silent or a limit is reached, then say GOAWAY."""
        self._connection.initiate_connection()
        await self._send(deadline)
        received = 0
        while self._answered < STREAMS_MAX and self._has_budget(received):
            data = await self._read(deadline)
            received += len(data)
            if not data or not self._take(data):
                break
            await self._send(deadline)
        await self._say_goodbye(deadline)

    def _has_budget(self, received: int) -> bool:
        return received - self._uploaded < HTTP2_BYTES_MAX and self._uploaded < UPLOAD_BYTES_MAX

    async def _read(self, deadline: float) -> bytes:
        until = min(deadline, self._reactor.clock() + QUIET_S) if self.is_answered else deadline
        try:
            return await self._tls.read(RECORD_BYTES, until)
        except TimeoutError:
            if not self.is_answered:
                raise
            return b""

    def _take(self, data: bytes) -> bool:
        """Feed bytes; False when the connection is over (h2 has prepared the GOAWAY that says why)."""
        try:
            events = self._connection.receive_data(data)
            for event in events:
                match event:
                    case DataReceived(stream_id=stream_id, flow_controlled_length=length, data=data) if stream_id:
                        self._uploaded += len(data or b"")
                        self._connection.acknowledge_received_data(length or 0, stream_id)
                    case StreamReset(stream_id=stream_id) if stream_id:
                        self._waiting.pop(stream_id, None)
                    case ConnectionTerminated():
                        return False
            for event in events:
                match event:
                    case RequestReceived(stream_id=stream_id, headers=headers) if stream_id:
                        self._respond(stream_id, headers)
                    case WindowUpdated() | RemoteSettingsChanged():
                        self._send_waiting()
        except ProtocolError:
            return False
        return True

    def _respond(self, stream_id: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        if self._answered >= STREAMS_MAX:
            return
        method = next((value for name, value in headers if name == b":method"), b"")
        response = self._answers.any_version(method.decode("latin-1"), headers)
        fields = [(b":status", b"%d" % response.status), *response.headers]
        self._connection.send_headers(stream_id, fields, end_stream=not response.body)
        self._answered += 1
        if response.body:
            self._waiting[stream_id] = response.body
            self._send_waiting()

    def _send_waiting(self) -> None:
        for stream_id, body in tuple(self._waiting.items()):
            if self._connection.local_flow_control_window(stream_id) >= len(body):
                self._connection.send_data(stream_id, body, end_stream=True)
                del self._waiting[stream_id]

    async def _say_goodbye(self, deadline: float) -> None:
        with contextlib.suppress(ProtocolError):  # the client said goodbye first, or h2 has done so already
            self._connection.close_connection()
        await self._tls.end_writing(deadline, self._connection.data_to_send() or b"")

    async def _send(self, deadline: float) -> None:
        data = self._connection.data_to_send()
        if data:
            await self._tls.write(data, deadline)
