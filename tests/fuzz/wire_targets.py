"""The parsers of what a sandbox and the far ends send, each with rules that hold whatever comes."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

import dns.message

from sandhold.model.destination import DomainName, MalformedError
from sandhold.wire.chunked import ChunkedReader, MalformedBodyError
from sandhold.wire.client_hello import MalformedHelloError, parse_client_hello
from sandhold.wire.dns_message import (
    build_answer,
    build_empty,
    build_error,
    build_outside_query,
    read_query,
    strip_answer,
)
from sandhold.wire.dns_question import ErrorCode, MalformedQuery, Query, Transport
from sandhold.wire.fields import HEAD_BYTES_MAX, MalformedHeadError
from sandhold.wire.name import parse_name
from sandhold.wire.need_more import NEED_MORE
from sandhold.wire.opening import (
    OPENING_BYTES_MAX,
    ConnectOpening,
    HttpOpening,
    MalformedOpening,
    Opaque,
    OpeningReader,
    TlsOpening,
    read_opening,
)
from sandhold.wire.request_head import TargetForm, read_request_head, upstream_head
from sandhold.wire.response_head import downstream_head, read_response_head
from tests.fuzz.engine import Target
from tests.unit.wire import peers

if TYPE_CHECKING:
    from contextlib import ExitStack

    from sandhold.wire.need_more import NeedMore
    from sandhold.wire.opening import Opening
    from tests.fuzz.engine import Check

_HELLOS: Final = (
    peers.openssl_hello(),
    peers.openssl_hello("a.b.example.com", ("h2", "http/1.1")),
    peers.openssl_hello(None),
    peers.records(peers.handshake(peers.hello_body(peers.server_name(b"example.com")))),
    peers.records(peers.handshake(peers.hello_body(peers.server_name(b"localhost") + peers.extension(0xFE0D, b"x")))),
    peers.records(peers.handshake(peers.hello_body(None))),
    peers.records(peers.openssl_hello("example.com", peers.long_alpn())[5:], 512),
)
_HEADS: Final = (
    peers.CURL_GET, peers.CURL_PROXY_GET, peers.CURL_CONNECT, peers.CURL_HTTP2_UPGRADE, peers.CURL_PUT, peers.CURL_POST,
    peers.PYTHON_CONNECT,
    b"OPTIONS * HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\nConnection: close, x\r\nTE: trailers\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
)  # fmt: skip
_OTHERS: Final = (
    peers.HTTP2_PREFACE,
    peers.GIT_DAEMON,
    peers.OPENSSH,
    peers.POSTGRES_TLS,
    peers.REDIS,
    b"\r\nGET / HTTP/1.1\r\n",
    b"\r\n" + b"GE HT/" * 12 + b"\x19",  # opaque, and certain before its line ends
)
_HTTP_WORDS: Final = (
    b"GET ", b"POST ", b"CONNECT ", b"HTTP/1.1", b"HTTP/1.0", b" HTTP/", b"Host: ", b"host:", b"Content-Length: ",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: ", b"chunked", b", ", b"Connection: ", b"close", b"keep-alive",
    b"Upgrade", b"Expect: 100-continue", b"TE: trailers", b"http://", b"https://", b"example.com", b"other.test",
    b":80", b":443", b"@", b"%2e", b"\t", b" ", b"\r\n ", b"\r\n\r\n", b"0", b"-1", b"+5", b"0x10", b"localhost",
    b"[::1]", b"*",
)  # fmt: skip
_TLS_WORDS: Final = (
    b"\x16\x03\x01", b"\x16\x03\x03", b"\x00\x00", b"\x00\x10", b"\xfe\x0d", b"\x00\x2b", b"\x0a\x0a", b"\x01\x00",
    b"example.com", b"other.test", b"127.0.0.1", b"localhost",
)  # fmt: skip
_NAMES: Final = (b"example.com", b"EXAMPLE.com.", b"a-b_c.x1.test", b"localhost", b"1.2.3.4", b"x." * 60 + b"test")


def _client_hello(_: ExitStack) -> Check:
    def check(data: bytes) -> str:
        try:
            hello = parse_client_hello(data)
        except MalformedHelloError as error:
            return str(error)
        if isinstance(hello.server_name, DomainName):
            assert hello.server_name.value.encode() in data.lower(), "a name that nobody sent"
        return f"{type(hello.server_name).__name__} {hello.has_encrypted_client_hello} {len(hello.alpn) > 0}"

    return check


def _opening(_: ExitStack) -> Check:
    def check(data: bytes) -> str:
        opening = read_opening(data)
        if opening is NEED_MORE:
            assert len(data) < OPENING_BYTES_MAX, "a full buffer decides nothing"
            assert isinstance(_feed(data, 7).end(), (Opaque, MalformedOpening))
            return "need more"
        again = read_opening(data + b"\0GET / HTTP/1.1\r\n\r\n")
        assert _is_same(again, opening), "more bytes changed what was decided"
        if isinstance(opening, (TlsOpening, HttpOpening, ConnectOpening)):
            assert 0 < opening.consumed <= len(data)
            # Only the bytes that were consumed count, and every one of them.
            assert read_opening(data[: opening.consumed]) == opening
            assert read_opening(data[: opening.consumed - 1]) is NEED_MORE
        if len(data) < 600:
            _check_pieces(data, opening)
        return f"{type(opening).__name__} {getattr(opening, 'detail', '')}"

    return check


def _feed(data: bytes, size: int) -> OpeningReader:
    reader = OpeningReader()
    for at in range(0, len(data), size):
        assert reader.feed(data[at : at + size]) is NEED_MORE
    return reader


def _is_same(one: Opening | NeedMore, other: Opening) -> bool:
    """Whether two openings are one, but for the words of a refusal."""
    return one == other or (isinstance(one, MalformedOpening) and isinstance(other, MalformedOpening))


def _check_pieces(data: bytes, opening: Opening) -> None:
    """In pieces it is the same; a refusal may come with the next line or with the end of the stream, but it comes."""
    reader = OpeningReader()
    size = 1 + len(data) % 5
    for at in range(0, len(data), size):
        found = reader.feed(data[at : at + size])
        if found is not NEED_MORE:
            assert _is_same(found, opening), "in pieces it is something else"
            return
    assert isinstance(opening, MalformedOpening), "in pieces it is never decided"
    assert isinstance(reader.end(), MalformedOpening), "in pieces it is not refused"


def _request_head(_: ExitStack) -> Check:
    def check(data: bytes) -> str:
        try:
            found = read_request_head(data)
        except MalformedHeadError as error:
            return str(error)
        if found is NEED_MORE:
            assert len(data) < HEAD_BYTES_MAX
            return "need more"
        head, consumed = found
        assert data[:consumed].endswith(b"\r\n\r\n")
        assert read_request_head(data[:consumed]) == found
        if head.form is not TargetForm.AUTHORITY:
            # What the far end is sent says the same, and only once where it may stand only once.
            sent = upstream_head(head)
            again = read_request_head(sent)
            assert again is not NEED_MORE
            assert again[1] == len(sent), "the head that is sent on has another end"
            assert (again[0].method, again[0].path, again[0].framing) == (head.method, head.path, head.framing)
            assert again[0].authority == head.authority
            assert sent.lower().count(b"\r\nhost:") <= 1
        return f"{head.form} {type(head.framing).__name__} {head.upgrade is not None} {head.is_keep_alive}"

    return check


def _response_head(_: ExitStack) -> Check:
    def check(data: bytes) -> str:
        method = ("GET", "HEAD", "CONNECT")[len(data) % 3]
        try:
            found = read_response_head(data, method)
        except MalformedHeadError as error:
            return str(error)
        if found is NEED_MORE:
            assert len(data) < HEAD_BYTES_MAX
            return "need more"
        head, consumed = found
        assert read_response_head(data[:consumed], method) == found
        sent = downstream_head(head)
        again = read_response_head(sent, method)
        assert again is not NEED_MORE
        assert (again[1], again[0].status, again[0].framing) == (len(sent), head.status, head.framing)
        return f"{head.status // 100} {type(head.framing).__name__} {head.is_keep_alive}"

    return check


def _chunked(_: ExitStack) -> Check:
    def check(data: bytes) -> str:
        whole = _follow(data, len(data) or 1)
        assert _follow(data, 1 + len(data) % 7) == whole, "in pieces it ends elsewhere"
        if isinstance(whole, tuple) and whole[1]:
            assert _plain_end(data) == whole[0], "the plain reader finds another end"
        return whole if isinstance(whole, str) else f"ended: {whole[1]}"

    return check


def _follow(data: bytes, size: int) -> tuple[int, bool] | str:
    """Feed a body in pieces, as its caller does: what was not consumed comes again."""
    reader = ChunkedReader()
    consumed = 0
    is_done = False
    for end in (*range(size, len(data), size), len(data)):
        try:
            taken, is_done = reader.feed(data[consumed:end])
        except MalformedBodyError as error:
            return str(error)
        consumed += taken
        if is_done:
            break
    return consumed, is_done


def _plain_end(data: bytes) -> int:
    """Find the end of a body that is known to be right, as RFC 9112 section 7.1.3 writes it down."""
    at = 0
    while True:
        line_end = data.index(b"\r\n", at)
        size = int(data[at:line_end].partition(b";")[0], 16)
        at = line_end + 2
        if size == 0:
            break
        assert data[at + size : at + size + 2] == b"\r\n"
        at += size + 2
    while (line_end := data.index(b"\r\n", at)) != at:
        at = line_end + 2
    return at + 2


def _name(_: ExitStack) -> Check:
    def check(data: bytes) -> str:
        try:
            host = parse_name(data)
        except MalformedError as error:
            return str(error)
        if isinstance(host, DomainName):
            assert host.value == data.decode("ascii").lower().removesuffix(".")
            assert parse_name(host.value.encode()) == host
        return type(host).__name__

    return check


_QUERY: Final = bytes.fromhex("123401000001000000000000076578616d706c6503636f6d0000010001")
_QUERIES: Final = (
    _QUERY,
    bytes.fromhex("12340100000100000000000107457841") + _QUERY[16:-4] + bytes.fromhex("001c00010000291000000000000000"),
    _QUERY[:-4] + bytes.fromhex("000f0001"),
    _QUERY[:-4] + bytes.fromhex("00410001"),
    bytes.fromhex("123401000001000000000000096c6f63616c686f73740000010001"),
)
_DNS_WORDS: Final = (
    b"\xc0\x0c", b"\xc0\x00", b"\x00\x01\x00\x01", b"\x00\x1c\x00\x01", b"\x00\xff", b"\x00\x29",
    b"\x07example\x03com\x00",
    b"\x3f" + b"a" * 63, b"\x01.", b"\x01\x00", b"\x84\x00",
)  # fmt: skip
_ADDRESSES: Final = (IPv4Address("198.18.0.1"), IPv6Address("fd00::1"))


def _dns_query(_: ExitStack) -> Check:
    def check(data: bytes) -> str:
        transport = Transport.TCP if len(data) % 2 else Transport.UDP
        query = read_query(data, transport)
        if isinstance(query, MalformedQuery):
            if query.reply is not None:
                assert query.reply[:2] == data[:2]
                assert query.reply[2] & 0x80, "a reply that is a question would be answered for ever"
            return query.detail
        for answer in (build_answer(query, _ADDRESSES, 60), build_empty(query), build_error(query, ErrorCode.REFUSED)):
            assert len(answer) <= query.payload_max
            assert answer[:2] == data[:2]
            assert answer[2] & 0x80
        assert query.text.isascii()
        if query.may_be_asked_outside:
            assert isinstance(query.host, DomainName)
            outside = dns.message.from_wire(build_outside_query(query, 7))
            assert outside.question[0].name.to_text(omit_final_dot=True) == query.host.value
        return f"{type(query.host).__name__} {query.wants_ipv4} {query.wants_ipv6} {query.may_be_asked_outside}"

    return check


_MX: Final = read_query(_QUERY[:-4] + bytes.fromhex("000f0001"))
_ANSWER: Final = bytes.fromhex(
    "000781800001000200000000076578616d706c6503636f6d00000f0001"
    "c00c000f00010000012c00070005026d78c00cc00c000f00010000012c0007000a026d79c00c"
)


def _dns_answer(_: ExitStack) -> Check:
    assert isinstance(_MX, Query)

    def check(data: bytes) -> str:
        assert isinstance(_MX, Query)
        stripped = strip_answer(_MX, data, 7)
        if stripped is None:
            return "no answer"
        message = dns.message.from_wire(stripped)
        assert message.id == _MX.id
        assert message.question[0].name.to_text(omit_final_dot=True) == "example.com"
        assert len(stripped) <= _MX.payload_max
        assert all(rrset.rdtype == _MX.query_type for rrset in message.answer), "a type that nobody asked for"
        assert not message.authority
        assert not message.additional
        return f"{message.rcode()} {len(message.answer)}"

    return check


WIRE: Final = (
    Target("client_hello", tuple(each[9:] for each in _HELLOS[:6]), _TLS_WORDS, _client_hello),
    Target("opening", (*_HELLOS, *_HEADS, *_OTHERS), _HTTP_WORDS + _TLS_WORDS, _opening),
    Target("request_head", _HEADS, _HTTP_WORDS, _request_head),
    Target(
        "response_head",
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: x\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            b"HTTP/1.0 304 \r\nConnection: keep-alive\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        _HTTP_WORDS,
        _response_head,
    ),
    Target(
        "chunked",
        (
            b"5\r\nhello\r\n0\r\n\r\n",
            b'a;name=value;q="x y"\r\n0123456789\r\n00\r\nX-Sum: 1\r\n\r\n',
            b"1\r\na\r\n" * 20 + b"0\r\n\r\nnext",
        ),
        (
            b"0\r\n\r\n",
            b"\r\n",
            b"\n",
            b"ffffffffffffffff",
            b"7fffffffffffffff",
            b";a=b",
            b';a="\\"',
            b"Host: x",
            b"A: b",
        ),
        _chunked,
    ),
    Target("name", _NAMES, (b".", b"-", b"_", b"xn--", b"0x7f", b"localhost", b"\0", b"a" * 63), _name),
    Target("dns_query", _QUERIES, _DNS_WORDS, _dns_query),
    Target("dns_answer", (_ANSWER,), _DNS_WORDS, _dns_answer),
)
