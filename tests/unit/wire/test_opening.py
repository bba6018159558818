"""The first bytes of a connection say the same however they are cut, and what they cannot say is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandhold.model.decision import Reason
from sandhold.model.destination import DomainName
from sandhold.wire.opening import (
    EMPTY_LINE_BYTES_MAX,
    HELLO_BYTES_MAX,
    NEED_MORE,
    OPENING_BYTES_MAX,
    RECORDS_MAX,
    REMEMBERED_BYTES_MAX,
    ConnectOpening,
    Http2Preface,
    HttpOpening,
    MalformedOpening,
    Opaque,
    OpeningReader,
    TlsOpening,
    read_opening,
)
from tests.unit.wire.peers import (
    ARBITRARY,
    CURL_CONNECT,
    CURL_GET,
    CURL_HTTP2_UPGRADE,
    CURL_POST,
    CURL_PROXY_GET,
    CURL_PUT,
    GIT_DAEMON,
    HTTP2_PREFACE,
    OPENSSH,
    POSTGRES_TLS,
    PYTHON_CONNECT,
    REDIS,
    extension,
    handshake,
    hello_body,
    long_alpn,
    openssl_hello,
    records,
    server_name,
)

GOOD_HELLO = handshake(hello_body(server_name(b"good.test")))

WHOLE = {
    "OpenSSL with two protocols": (openssl_hello(alpn=("h2", "http/1.1")), TlsOpening),
    "OpenSSL with more protocols than a segment holds": (openssl_hello(alpn=long_alpn()), TlsOpening),
    "a hello in records of one byte": (records(GOOD_HELLO, 1), TlsOpening),
    "a hello in records of TLS 1.2": (records(GOOD_HELLO, 7, 0x0303), TlsOpening),
    "curl": (CURL_GET, HttpOpening),
    "curl to a proxy": (CURL_PROXY_GET, HttpOpening),
    "curl that would like HTTP/2": (CURL_HTTP2_UPGRADE, HttpOpening),
    "curl that uploads": (CURL_PUT, HttpOpening),
    "curl that posts": (CURL_POST, HttpOpening),
    "curl that wants a tunnel": (CURL_CONNECT, ConnectOpening),
    "Python that wants a tunnel": (PYTHON_CONNECT, ConnectOpening),
    "HTTP/2 with prior knowledge": (HTTP2_PREFACE, Http2Preface),
}


@pytest.mark.parametrize(("opening", "kind"), WHOLE.values(), ids=WHOLE)
def test_byte_by_byte(opening: bytes, kind: type) -> None:
    """Every part of an opening wants more, the whole is decided, and bytes behind it change nothing."""
    for size in range(len(opening)):
        assert read_opening(opening[:size]) is NEED_MORE
    decided = read_opening(opening)
    assert isinstance(decided, kind)
    assert read_opening(opening + b"\x17\x03\x03\0\x05hello\n\0") == decided
    if isinstance(decided, TlsOpening | HttpOpening | ConnectOpening):
        assert decided.consumed == len(opening)


OPAQUE = {
    "OpenSSH": (OPENSSH, len(OPENSSH) - 1),
    "git's own protocol": (GIT_DAEMON, len(b"003bgit-upload-pack /r.git") + 1),
    "PostgreSQL asks for TLS": (POSTGRES_TLS, 1),
    "Redis": (REDIS, 3),
    "SMTP": (b"EHLO good.test\r\n", len(b"EHLO good.test") + 1),
    "memcached": (b"get key\r\n", len(b"get key") + 1),
    "an old hello of SSLv2": (b"\x80\x2e\x01\x00\x02", 1),
    "SOCKS5": (b"\x05\x01\x00", 1),
    "SOCKS4": (b"\x04\x01\x00\x50", 1),
    "a line behind an empty line": (b"\r\nalice\r\n", 8),
    "a space first": (b" GET / HTTP/1.1\r\n", 1),
    "a byte that only starts like TLS": (b"\x16\x04\x01\0\x05", 2),
    "bytes above ASCII": (b"\xc3\xa9 / HTTP/1.1\r\n", 1),
    "a long word that ends as no method does": (b"A" * 100 + b"(b HTTP/1.1\r\n", 101),
    "a long word alone on its line": (b"A" * 100 + b"\r\n", 101),
    "a line that starts with a long word": (b"A" * 100 + b" b\r\n", 103),
    "an unknown command whose text is cut by NUL": (b"FOO x\0 HTTP/1.1\r\n", 6),
}


@pytest.mark.parametrize(("opening", "certain_at"), OPAQUE.values(), ids=OPAQUE)
def test_opaque_as_soon_as_it_is_certain(opening: bytes, certain_at: int) -> None:
    """Another protocol is known at the first byte that makes it certain, not later and not earlier."""
    assert read_opening(opening[: certain_at - 1]) is NEED_MORE
    assert read_opening(opening[:certain_at]) == Opaque()
    assert read_opening(opening) == Opaque()


TLS_REFUSED = {
    "a record of SSLv3": b"\x16\x03\x00",
    "a record of a version to come": b"\x16\x03\x05",
    "an empty record": b"\x16\x03\x01\0\0",
    "a record longer than TLS has": b"\x16\x03\x01\x40\x01",
    "another handshake message": records(handshake(hello_body(), 2))[:6],
    "a message behind the hello in its record": records(GOOD_HELLO + handshake(b"", 11)),
    "an alert inside the hello": records(GOOD_HELLO[:20]) + b"\x15",
    "application data inside the hello": records(GOOD_HELLO[:20]) + b"\x17\x03\x03\0\x05",
    "a second record of another major version": records(GOOD_HELLO[:20]) + b"\x16\x02",
    "a hello that says two names": records(handshake(hello_body(server_name(b"good.test", b"evil.test")))),
    "a hello that says an address": records(handshake(hello_body(server_name(b"192.0.2.1")))),
    "a hello with bytes behind its extensions": records(handshake(hello_body(behind=b"x"))),
    "a hello without a body": records(handshake(b"")),
}


@pytest.mark.parametrize("opening", TLS_REFUSED.values(), ids=TLS_REFUSED)
def test_tls_that_is_no_hello_is_refused(opening: bytes) -> None:
    """What starts as TLS is a proper ClientHello or malformed, never opaque and never waited for."""
    decided = read_opening(opening)
    assert isinstance(decided, MalformedOpening)
    assert (decided.reason, decided.status) == (Reason.MALFORMED, None)


HTTP_REFUSED = {
    "an empty line first": (b"\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", 400),
    "half a head behind an empty line": (b"\r\nGET / HTTP/1.1\r\n", 400),
    "many line feeds first": (b"\n" * 200 + b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", 400),
    "a CONNECT behind an empty line": (b"\r\n\r\nCONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n", 400),
    "a method and nothing": (b"GET\r\n", 400),
    "a tab behind the method": (b"CONNECT\tgood.test:443 HTTP/1.1\r\n", 400),
    "a line that ends with LF": (b"GET / HTTP/1.1\n", 400),
    "a NUL in the request line": (b"GET /\0 HTTP/1.1\r\n", 400),
    "a byte above ASCII behind the version": (b"GET / HTTP/1.1\xa0\r\n", 400),
    "a byte above ASCII in the target of any method": (b"ANY /\x98 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    "a byte above ASCII behind a known method": (b"GET /\x98", 400),
    "a byte above ASCII for a space before the version": (b"ANY /\xa0HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    "a method like the banner of SSH": (b"SSH-2.0-x /\x98 HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
    "a lower-case method": (b"connect good.test:443 HTTP/1.1\r\nHost: good.test:443\r\n\r\n", 400),
    "a method longer than any": (b"CONNECT" * 17 + b" evil.test:443 HTTP/1.1\r\nHost: evil.test\r\n\r\n", 400),
    "a method as long as lines of some servers": (b"A" * 8000 + b" / HTTP/1.1\r\nHost: evil.test\r\n\r\n", 400),
    "a long method behind an empty line": (b"\r\n" + b"A" * 100 + b" / HTTP/1.1\r\nHost: evil.test\r\n\r\n", 400),
    "a preface that goes on differently": (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 505),
    "no host": (b"GET / HTTP/1.1\r\nAccept: */*\r\n\r\n", 400),
}


@pytest.mark.parametrize(("opening", "status"), HTTP_REFUSED.values(), ids=HTTP_REFUSED)
def test_http_that_is_refused_has_a_status(opening: bytes, status: int) -> None:
    """What starts as HTTP is a proper head or malformed with the status to answer, never opaque."""
    decided = read_opening(opening)
    assert isinstance(decided, MalformedOpening)
    assert (decided.reason, decided.status) == (Reason.MALFORMED, status)


TOO_LARGE = {
    "a hello of 64 KiB": records(handshake(hello_body(extension(21, bytes(60_000)) + extension(22, bytes(5_000))))),
    "a hello that only says it is large": b"\x16\x03\x01\x40\x00" + handshake(b"")[:1] + b"\x01\x00\x00",
    "a hello in too many records": records(handshake(bytes(RECORDS_MAX)), 1),
    "a target of 17 KiB": b"GET /" + b"a" * 17 * 1024,
    "a target of 17 KiB with a version": b"GET /" + b"a" * 17 * 1024 + b" HTTP/1.1\r\n",
    "empty lines without an end": b"\r\n" * 300,
    "fields without an end": b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 200,
    "a method without an end": b"A" * 17 * 1024,
    "text without an end": b"FOO " + b"a" * 17 * 1024,
    "a head of 64 KiB": b"GET / HTTP/1.1\r\nHost: good.test\r\nX: " + b"a" * OPENING_BYTES_MAX,
}


@pytest.mark.parametrize("opening", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_limit_has_its_own_reason(opening: bytes) -> None:
    """An opening that reaches a limit is refused as too large, not as malformed."""
    decided = read_opening(opening)
    assert isinstance(decided, MalformedOpening)
    assert decided.reason is Reason.OPENING_TOO_LARGE


def test_the_largest_hello_is_read() -> None:
    """A hello of exactly the limit is read; one byte more is not."""
    fixed = len(handshake(hello_body(server_name(b"good.test") + extension(21, b""))))
    fitting = handshake(hello_body(server_name(b"good.test") + extension(21, bytes(HELLO_BYTES_MAX - fixed))))
    decided = read_opening(records(fitting))
    assert isinstance(decided, TlsOpening)
    assert decided.hello.server_name == DomainName("good.test")
    above = handshake(hello_body(server_name(b"good.test") + extension(21, bytes(HELLO_BYTES_MAX - fixed + 1))))
    assert isinstance(read_opening(records(above)), MalformedOpening)


START = st.sampled_from(
    [
        b"",
        b"\x16",
        b"\x16\x03\x01\0\x40\x01\0\0",
        b"GET / HTTP/1.1\r\nHost: good.test\r\n",
        b"CONNECT ",
        b"PRI * HTTP/2.0\r\n",
        b"FOO ",
        b"A" * 63,
        b"\r\nGET / HTTP/1.1\r\n",
        b"\n\r\n",
        records(GOOD_HELLO, 9)[:40],
    ]
)
PIECES = st.lists(
    st.sampled_from(
        [b"\r\n", b"\r", b"\n", b" ", b"\0", b" HTTP/1.1", b"GET", b":", b"a", b"\x16\x03\x01\0\x02", b"\xff"]
    )
    | st.binary(max_size=8),
    max_size=20,
)


@ARBITRARY
@given(START, PIECES)
def test_a_decision_is_final(start: bytes, pieces: list[bytes]) -> None:
    """Whatever comes, nothing is raised, and once the opening is decided more bytes never change it."""
    opening = start + b"".join(pieces)
    final = read_opening(opening)
    decided = next(
        (early for size in range(len(opening)) if (early := read_opening(opening[:size])) is not NEED_MORE), final
    )
    assert decided == final


@ARBITRARY
@given(START, PIECES)
def test_pieces_decide_what_the_whole_decides(start: bytes, pieces: list[bytes]) -> None:
    """A reader of pieces says nothing else than the bytes so far say, and forgets none of them."""
    reader = OpeningReader()
    fed = b""
    for piece in (start, *pieces):
        fed += piece
        decided = reader.feed(piece)
        assert decided is NEED_MORE or decided == read_opening(fed)
        assert reader.buffer == fed
        if decided is not NEED_MORE:
            break


@pytest.mark.parametrize(("opening", "kind"), WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("size", [1, 2, 3, 61, 1400])
def test_a_reader_knows_an_opening_at_its_last_byte(opening: bytes, kind: type, size: int) -> None:
    """However small the pieces are, the opening is known as soon as it is whole."""
    reader = OpeningReader()
    pieces = [opening[at : at + size] for at in range(0, len(opening), size)]
    assert all(reader.feed(piece) is NEED_MORE for piece in pieces[:-1])
    assert isinstance(reader.feed(pieces[-1]), kind)


@pytest.mark.parametrize(("opening", "certain_at"), OPAQUE.values(), ids=OPAQUE)
@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_reader_knows_what_is_opaque_at_the_piece_that_makes_it_certain(
    opening: bytes, certain_at: int, size: int
) -> None:
    """However small the pieces are, another protocol is not held until its time is up."""
    reader = OpeningReader()
    for end in range(size, certain_at + size, size):
        decided = reader.feed(opening[end - size : end])
        assert decided == (Opaque() if end >= certain_at else NEED_MORE)


@pytest.mark.parametrize("word", [0, 62, 100])
@pytest.mark.parametrize("empty", [0, 1, 62, 63, 136, EMPTY_LINE_BYTES_MAX])
def test_a_reader_knows_what_is_opaque_behind_empty_lines(empty: int, word: int) -> None:
    """However many empty lines come before, what cannot be a request is known as soon as that is certain."""
    reader = OpeningReader()
    assert all(reader.feed(byte) is NEED_MORE for byte in [b"\n"] * empty + [b"A"] * word)
    assert reader.feed(b", ") == Opaque()


@pytest.mark.parametrize("opening", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_reader_stops_at_the_limits(opening: bytes) -> None:
    """Byte by byte, nothing grows beyond the limit."""
    reader = OpeningReader()
    decided = next(
        decided
        for byte in opening + bytes(OPENING_BYTES_MAX)
        if (decided := reader.feed(bytes([byte]))) is not NEED_MORE
    )
    assert isinstance(decided, MalformedOpening)
    assert len(reader.buffer) <= OPENING_BYTES_MAX


ENDED = {
    "a line of text": (b"question", Opaque()),
    "an empty line, which is all that finger says": (b"\r\n", Opaque()),
    "half a ClientHello": (records(GOOD_HELLO)[:40], MalformedOpening("it ends in the middle of a ClientHello")),
    "half a head": (
        b"GET / HTTP/1.1\r\nHost: evil.test\r\n",
        MalformedOpening("it ends in the middle of a request", status=400),
    ),
    "a head of HTTP/0.9 without its line end": (
        b"GET /",
        MalformedOpening("it ends in the middle of a request", status=400),
    ),
    "half a line behind an empty line": (
        b"\r\nPOST / HTTP/1.1",
        MalformedOpening("it ends in the middle of a request", status=400),
    ),
}


@pytest.mark.parametrize(("opening", "expected"), ENDED.values(), ids=ENDED)
def test_an_opening_that_ends_too_early_is_refused(opening: bytes, expected: object) -> None:
    """What would have been TLS or HTTP is malformed, anything else is opaque."""
    reader = OpeningReader()
    assert reader.feed(opening) is NEED_MORE
    assert reader.end() == expected


@ARBITRARY
@given(START, st.binary(min_size=1, max_size=16))
def test_a_full_buffer_is_decided(start: bytes, pattern: bytes) -> None:
    """No opening wants more than the limit, so that no buffer grows beyond it."""
    filled = (start + pattern * (OPENING_BYTES_MAX // len(pattern) + 1))[:OPENING_BYTES_MAX]
    assert read_opening(filled) is not NEED_MORE


def test_records_of_one_byte_within_the_limit_are_read() -> None:
    """The limit on records leaves room for a hello that is cut as small as it is short."""
    assert len(GOOD_HELLO) < RECORDS_MAX
    decided = read_opening(records(GOOD_HELLO, 1))
    assert isinstance(decided, TlsOpening)
    assert decided.hello.server_name == DomainName("good.test")


@pytest.mark.parametrize("padding", [0, REMEMBERED_BYTES_MAX])
def test_a_connect_is_never_taken_for_another(padding: int) -> None:
    """What is remembered of a CONNECT is for those very bytes, also behind one that differs only in its host or end."""
    for name in (b"good.test", b"evil.test", b"good.test"):
        head = b"CONNECT %b:443 HTTP/1.1\r\nHost: %b:443\r\nX: %b\r\n\r\n" % (name, name, b"x" * padding)
        for early in (b"", b"\x16\x03"):
            opening = read_opening(head + early)
            assert isinstance(opening, ConnectOpening)
            assert opening.head.authority == (DomainName(name.decode()), 443)
            assert opening.consumed == len(head)
        assert read_opening(head[:-1]) is NEED_MORE
        assert isinstance(read_opening(head.replace(b"\r\nX", b"\nX")), MalformedOpening)
