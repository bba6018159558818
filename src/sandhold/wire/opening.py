"""What a connection's first bytes say.

1. Bytes 0x16 0x03 are TLS (RFC 8446 section 5.1): handshake records of version 0x0301 to 0x0304 with 1 to 16384 bytes
   each, and nothing but one whole ClientHello in the first of them, which fills its last record. Anything else that
   starts so is refused. What follows those records is not looked at.
2. The 24 bytes of the HTTP/2 preface are HTTP/2 with prior knowledge; anything else that starts with its first line is
   refused.
3. A token, a space and text on one line with `HTTP/` in it are HTTP/1, whatever the token is and however long (a server
   may take it for a method), also where bytes beyond ASCII stand in that text (some are spaces to some servers), and so
   is a line that starts with a registered method (HTTP/0.9 is refused, not opaque). It is read by the rules of
   `request_head`.
4. Servers skip empty lines before a request (RFC 9112 section 2.2): HTTP behind any is refused.
5. Whatever can no longer become one of these is opaque, as soon as that is certain.
6. No opening needs more than `OPENING_BYTES_MAX`; one that would is refused with its own reason.
7. TLS or HTTP that ends before its opening is whole is refused; other bytes that end so are opaque.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.model.decision import Reason
from sandhold.wire.client_hello import MalformedHelloError, parse_client_hello
from sandhold.wire.fields import HEAD_BYTES_MAX, START_LINE_BYTES_MAX, TOKEN, MalformedHeadError
from sandhold.wire.need_more import NEED_MORE, NeedMore
from sandhold.wire.request_head import read_request_head

if TYPE_CHECKING:
    from sandhold.wire.client_hello import ClientHello
    from sandhold.wire.request_head import RequestHead

__all__ = [
    "NEED_MORE",
    "OPENING_BYTES_MAX",
    "ConnectOpening",
    "Http2Preface",
    "HttpOpening",
    "MalformedOpening",
    "NeedMore",
    "Opaque",
    "Opening",
    "OpeningReader",
    "TlsOpening",
    "read_opening",
]

OPENING_BYTES_MAX: Final = HEAD_BYTES_MAX  # a buffer of this size is always decided
RECORDS_MAX: Final = 128  # 64 KiB in the smallest fragments that TLS negotiates, 512 bytes (RFC 6066 section 4)
RECORD_BYTES_MAX: Final = 2**14  # RFC 8446 section 5.1
EMPTY_LINE_BYTES_MAX: Final = 256  # some clients send one behind a request; some servers skip any number
REMEMBERED_MAX: Final = 64  # CONNECT heads in use at a time
REMEMBERED_BYTES_MAX: Final = 1024  # of one of them; a program's are all alike but for the host, and have 200
HELLO_BYTES_MAX: Final = OPENING_BYTES_MAX - RECORDS_MAX * 5  # post-quantum hellos have 2 kB, some 17 kB

_HANDSHAKE: Final = 22
_RECORD_HEADER_BYTES: Final = 5
_RECORD_MINOR_VERSIONS: Final = range(1, 5)
_CLIENT_HELLO: Final = 1
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LINE_ENDS: Final = b"\r\n"
_CONNECT: Final = b"CONNECT "
_VERSION: Final = b"HTTP/"
_DECIDING_BYTES: Final = 64  # the preface, every registered method, the headers of a record and of its message
_METHOD = re.compile(TOKEN)
_TEXT = re.compile(rb"[\t -~\x80-\xff]*")  # some servers take bytes beyond ASCII in a request line
_REGISTERED_METHODS: Final = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"PRI"}
)


@dataclass(frozen=True, slots=True)
class TlsOpening:
    """A whole ClientHello; `consumed` bytes of the buffer held it. `hello.server_name` is None when none was sent."""

    hello: ClientHello
    consumed: int


@dataclass(frozen=True, slots=True)
class HttpOpening:
    """A whole HTTP/1 request head other than CONNECT; `consumed` bytes of the buffer held it."""

    head: RequestHead
    consumed: int


@dataclass(frozen=True, slots=True)
class ConnectOpening:
    """A whole HTTP/1 CONNECT head; `consumed` bytes of the buffer held it."""

    head: RequestHead
    consumed: int


@dataclass(frozen=True, slots=True)
class Http2Preface:
    """HTTP/2 with prior knowledge and without TLS (RFC 9113 section 3.4)."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """Certainly none of the others: SSH, a database, anything."""


@dataclass(frozen=True, slots=True)
class MalformedOpening:
    """TLS or HTTP that is refused; `detail` says why in our own words.

    `reason` is `MALFORMED` or `OPENING_TOO_LARGE`; `status` is the answer where HTTP can be answered, None for TLS.
    """

    detail: str
    reason: Reason = Reason.MALFORMED
    status: int | None = None


Opening = TlsOpening | HttpOpening | ConnectOpening | Http2Preface | Opaque | MalformedOpening


def read_opening(buffer: bytes) -> Opening | NeedMore:
    """Say what a connection's first bytes are; once decided, more bytes change only a refusal's words."""
    if not buffer:
        return NEED_MORE
    if buffer[0] == _HANDSHAKE:
        if len(buffer) < 2:
            return NEED_MORE
        return _read_tls(buffer) if buffer[1] == 3 else Opaque()
    if _PREFACE.startswith(buffer[: len(_PREFACE)]):
        return Http2Preface() if len(buffer) >= len(_PREFACE) else NEED_MORE
    if buffer[0] in _LINE_ENDS:
        return _read_behind_empty_lines(buffer)
    if buffer.startswith(_CONNECT) and len(buffer) <= REMEMBERED_BYTES_MAX:
        return _read_connect(buffer)
    return _read_text(buffer)


class OpeningReader:
    """`read_opening` for bytes that come in pieces, in time linear in their number however small the pieces are."""

    __slots__ = ("_buffer", "_has_line", "_has_word", "_tls_wanted", "_word_goes_on")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._has_line = False
        self._has_word = False
        self._word_goes_on = True
        self._tls_wanted = 0

    @property
    def buffer(self) -> bytes:
        """Everything that was fed."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> Opening | NeedMore:
        """Take the next bytes; to be called no more once it has answered with an opening."""
        self._buffer += data
        return read_opening(self.buffer) if self._is_worth_a_look(data) else NEED_MORE

    def end(self) -> Opaque | MalformedOpening:
        """Say what bytes are that ended before they decided anything (rule 7)."""
        if self._buffer.startswith(b"\x16\x03"):
            return MalformedOpening("it ends in the middle of a ClientHello")
        line = bytes(self._buffer.lstrip(_LINE_ENDS)).partition(b"\n")[0]
        if _VERSION in line or line.partition(b" ")[0] in _REGISTERED_METHODS:
            return MalformedOpening("it ends in the middle of a request", status=400)
        return Opaque()

    def _is_worth_a_look(self, data: bytes) -> bool:
        """Whether these bytes can decide anything: the first few, the ends of records and lines, and the limits."""
        size = len(self._buffer)
        had_line = self._has_line
        self._has_line = had_line or b"\n" in data
        if self._word_goes_on and self._ends_word(data):
            return True
        if size <= _DECIDING_BYTES or size >= OPENING_BYTES_MAX:
            return True
        if self._buffer[0] in _LINE_ENDS and size <= _DECIDING_BYTES + EMPTY_LINE_BYTES_MAX:
            return True
        if self._buffer[0] == _HANDSHAKE:
            if size < self._tls_wanted:
                return False
            self._tls_wanted = _end_of_record(self._buffer)
            return True
        if had_line and self._buffer[0] not in _LINE_ENDS:  # an empty line is not the request line
            return b"\n" in data
        return not _TEXT.fullmatch(data) or size > START_LINE_BYTES_MAX

    def _ends_word(self, data: bytes) -> bool:
        """Whether the first word, which may be a method, ends in these bytes: what ends it can decide."""
        text = data if self._has_word else data.lstrip(_LINE_ENDS)
        self._has_word = self._has_word or bool(text)
        self._word_goes_on = not text or _METHOD.fullmatch(text) is not None
        return not self._word_goes_on


def _read_tls(buffer: bytes) -> TlsOpening | MalformedOpening | NeedMore:
    """Rule 1: put the fragments together until the ClientHello is whole."""
    hello = bytearray()
    position = 0
    for _ in range(RECORDS_MAX):
        header = buffer[position : position + _RECORD_HEADER_BYTES]
        refusal = _check_record_header(header)
        if refusal is not None:
            return MalformedOpening(refusal)
        if len(header) < _RECORD_HEADER_BYTES:
            return NEED_MORE
        size = int.from_bytes(header[3:5], "big")
        position += _RECORD_HEADER_BYTES
        hello_end = len(hello) + size
        hello += buffer[position : position + size]
        position += size
        if hello and hello[0] != _CLIENT_HELLO:
            return MalformedOpening("TLS does not start with a ClientHello")
        if len(hello) >= 4:
            wanted = 4 + int.from_bytes(hello[1:4], "big")
            if wanted > HELLO_BYTES_MAX:
                return MalformedOpening("the ClientHello is too large", Reason.OPENING_TOO_LARGE)
            if hello_end > wanted:
                return MalformedOpening("bytes behind the ClientHello in its record")
            if len(hello) == wanted:
                return _judge_hello(bytes(hello[4:]), position)
        if len(hello) < hello_end:
            return NEED_MORE
    return MalformedOpening("the ClientHello is in too many records", Reason.OPENING_TOO_LARGE)


def _end_of_record(buffer: bytes | bytearray) -> int:
    """How many bytes there must be before the next record, or its header, is whole."""
    position = 0
    while position + _RECORD_HEADER_BYTES <= len(buffer):
        end = position + _RECORD_HEADER_BYTES + int.from_bytes(buffer[position + 3 : position + 5], "big")
        if end > len(buffer):
            return end
        position = end
    return position + _RECORD_HEADER_BYTES


def _check_record_header(header: bytes) -> str | None:
    """Judge as much of a record header as there is; None is fine so far."""
    if header and header[0] != _HANDSHAKE:
        return "another record inside the ClientHello"
    if len(header) >= 2 and header[1] != 3:
        return "a TLS record of an unknown version"
    if len(header) >= 3 and header[2] not in _RECORD_MINOR_VERSIONS:
        return "a TLS record of an unknown version"
    if len(header) == _RECORD_HEADER_BYTES and not 0 < int.from_bytes(header[3:5], "big") <= RECORD_BYTES_MAX:
        return "a TLS record that is empty or too long"
    return None


def _judge_hello(body: bytes, consumed: int) -> TlsOpening | MalformedOpening:
    try:
        return TlsOpening(parse_client_hello(body), consumed)
    except MalformedHelloError as error:
        return MalformedOpening(str(error))


def _read_behind_empty_lines(buffer: bytes) -> MalformedOpening | Opaque | NeedMore:
    """Rule 4, for a buffer that starts with a line end."""
    behind = buffer.lstrip(_LINE_ENDS)
    if len(buffer) - len(behind) > EMPTY_LINE_BYTES_MAX:
        return MalformedOpening("too many empty lines", Reason.OPENING_TOO_LARGE, 400)
    opening = _read_text(behind) if behind else NEED_MORE
    if isinstance(opening, Opaque) or (opening is NEED_MORE and b"\n" not in behind):
        return opening
    return MalformedOpening("an empty line before the request line", status=400)


@functools.lru_cache(maxsize=REMEMBERED_MAX)
def _read_connect(buffer: bytes) -> HttpOpening | ConnectOpening | MalformedOpening | Opaque | NeedMore:
    """Read what may be a CONNECT, once for all connections of a program to one host, which say it in the same bytes."""
    return _read_text(buffer)


def _read_text(buffer: bytes) -> HttpOpening | ConnectOpening | MalformedOpening | Opaque | NeedMore:
    """Rules 2, 3, 5 and 6. Only the text before the first byte that is no text decides whether this is HTTP at all."""
    window = buffer[: START_LINE_BYTES_MAX + 2]
    match = _METHOD.match(window)
    if match is None:
        return Opaque()
    method = match[0]
    if len(method) == len(window):
        if len(window) <= START_LINE_BYTES_MAX + 1:
            return NEED_MORE
        return MalformedOpening("the method is too long", Reason.OPENING_TOO_LARGE, 400)
    is_registered = method in _REGISTERED_METHODS
    if window[len(method)] != ord(" "):
        return MalformedOpening("no space behind the method", status=400) if is_registered else Opaque()
    text_match = _TEXT.match(window)
    assert text_match is not None
    text = text_match[0]
    ended_by = window[len(text) : len(text) + 1]
    has_version = _VERSION in text
    if not text.isascii() and (has_version or is_registered):
        return MalformedOpening("a byte in the request line that belongs in no URI", status=400)
    if not has_version and ended_by:
        return MalformedOpening("a request line without a version", status=400) if is_registered else Opaque()
    if ended_by not in (b"", b"\r", b"\n"):
        return MalformedOpening("a byte in the request line that belongs in no URI", status=400)
    if ended_by or len(window) > START_LINE_BYTES_MAX + 1:
        return _read_http(buffer)
    return NEED_MORE


def _read_http(buffer: bytes) -> HttpOpening | ConnectOpening | MalformedOpening | NeedMore:
    try:
        head = read_request_head(buffer)
    except MalformedHeadError as error:
        return MalformedOpening(str(error), error.reason, error.status)
    if head is NEED_MORE:
        return NEED_MORE
    request, consumed = head
    opening = ConnectOpening if request.method == "CONNECT" else HttpOpening
    return opening(request, consumed)
