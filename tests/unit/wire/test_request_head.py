"""A request head is for one host and ends in one place, or it is refused."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandhold.model.decision import Reason
from sandhold.model.destination import DomainName, HostService
from sandhold.wire.framing import Chunked, Length, NoBody
from sandhold.wire.need_more import NEED_MORE
from sandhold.wire.request_head import (
    MalformedHeadError,
    RequestHead,
    TargetForm,
    read_request_head,
    upstream_head,
)
from tests.unit.wire.peers import (
    ARBITRARY,
    CURL_CONNECT,
    CURL_GET,
    CURL_HTTP2_UPGRADE,
    CURL_POST,
    CURL_PROXY_GET,
    CURL_PUT,
    PYTHON_CONNECT,
)

if TYPE_CHECKING:
    from sandhold.model.destination import Host
    from sandhold.wire.framing import RequestFraming

GOOD = DomainName("good.test")


def get(*lines: bytes, start: bytes = b"GET / HTTP/1.1", host: bytes | None = b"Host: good.test") -> bytes:
    """Write a head from its lines."""
    return b"\r\n".join([start, *([] if host is None else [host]), *lines, b"", b""])


def read(buffer: bytes, default_port: int = 80) -> RequestHead:
    """Read a whole head."""
    answer = read_request_head(buffer, default_port=default_port)
    assert answer is not NEED_MORE
    head, consumed = answer
    assert consumed == len(buffer)
    return head


REFUSED_START = {
    "a lower-case method": b"get / HTTP/1.1",
    "a method with a lower-case letter": b"Get / HTTP/1.1",
    "a method of 33 characters": b"A" * 33 + b" / HTTP/1.1",
    "a method with a colon": b"GE:T / HTTP/1.1",
    "a tab behind the method": b"GET\t/ HTTP/1.1",
    "two spaces behind the method": b"GET  / HTTP/1.1",
    "a space before the method": b" GET / HTTP/1.1",
    "a space in the target": b"GET /a b HTTP/1.1",
    "a space behind the version": b"GET / HTTP/1.1 ",
    "a tab behind the version": b"GET / HTTP/1.1\t",
    "no version": b"GET /",
    "no target": b"GET HTTP/1.1",
    "an empty target": b"GET  HTTP/1.1",
    "a lower-case version": b"GET / http/1.1",
    "a long version": b"GET / HTTP/1.10",
    "a fragment": b"GET /#x HTTP/1.1",
    "a NUL in the target": b"GET /\0 HTTP/1.1",
    "a byte above ASCII in the target": b"GET /\xe9 HTTP/1.1",
    "DEL in the target": b"GET /\x7f HTTP/1.1",
    "a path without a slash": b"GET a HTTP/1.1",
    "an authority without CONNECT": b"GET good.test:80 HTTP/1.1",
    "an asterisk without OPTIONS": b"GET * HTTP/1.1",
    "https in plain text": b"GET https://good.test/ HTTP/1.1",
    "an upper-case scheme": b"GET HTTP://good.test/ HTTP/1.1",
    "the scheme of FTP": b"GET ftp://good.test/ HTTP/1.1",
    "the scheme of files": b"GET file:///etc/passwd HTTP/1.1",
    "the scheme of a socket": b"GET unix:/run/x.sock HTTP/1.1",
    "a scheme and no host": b"GET http:///x HTTP/1.1",
    "a scheme with one slash": b"GET http:/good.test/ HTTP/1.1",
    "user information": b"GET http://good.test@evil.test/ HTTP/1.1",
    "user information with a password": b"GET http://a:b@good.test/ HTTP/1.1",
    "a backslash in the authority": b"GET http://evil.test\\@good.test/ HTTP/1.1",
    "a percent sign in the authority": b"GET http://good%2etest/ HTTP/1.1",
    "an empty port": b"GET http://good.test:/ HTTP/1.1",
    "CONNECT without a port": b"CONNECT good.test HTTP/1.1",
    "CONNECT with a path": b"CONNECT good.test:80/ HTTP/1.1",
    "CONNECT with a slash alone": b"CONNECT / HTTP/1.1",
    "CONNECT with a scheme": b"CONNECT http://good.test:80 HTTP/1.1",
    "CONNECT with user information": b"CONNECT a@good.test:80 HTTP/1.1",
    "CONNECT with an asterisk": b"CONNECT * HTTP/1.1",
    "CONNECT with a leading zero": b"CONNECT good.test:080 HTTP/1.1",
    "CONNECT with a sign": b"CONNECT good.test:+80 HTTP/1.1",
    "CONNECT with a port too high": b"CONNECT good.test:65536 HTTP/1.1",
    "CONNECT with a named port": b"CONNECT good.test:http HTTP/1.1",
    "CONNECT with brackets round a name": b"CONNECT [good.test]:80 HTTP/1.1",
    "CONNECT with a zone": b"CONNECT [fe80::1%25eth0]:80 HTTP/1.1",
    "CONNECT with an IPv6 address without brackets": b"CONNECT ::1:80 HTTP/1.1",
    "CONNECT with an old spelling of an address": b"CONNECT 0x7f.1:80 HTTP/1.1",
    "CONNECT with an address as one number": b"CONNECT 2130706433:80 HTTP/1.1",
}


@pytest.mark.parametrize("start", REFUSED_START.values(), ids=REFUSED_START)
def test_request_lines_that_are_refused(start: bytes) -> None:
    """Whatever is not exactly one of the four forms in HTTP/1.1 or 1.0 is malformed."""
    with pytest.raises(MalformedHeadError) as refused:
        read_request_head(get(start=start))
    assert (refused.value.status, refused.value.reason) == (400, Reason.MALFORMED)


@pytest.mark.parametrize("version", [b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/3.0"])
def test_other_versions_are_not_supported(version: bytes) -> None:
    """A version that exists or could exist is answered with 505."""
    with pytest.raises(MalformedHeadError) as refused:
        read_request_head(get(start=b"GET / " + version))
    assert refused.value.status == 505


REFUSED_LINES = {
    "no host": get(host=None),
    "an empty host": get(host=b"Host: "),
    "an empty host without a space": get(host=b"Host:"),
    "two hosts": get(b"Host: evil.test"),
    "the same host twice": get(b"hOST: good.test"),
    "two hosts in one field": get(host=b"Host: good.test, evil.test"),
    "two hosts with a space": get(host=b"Host: good.test evil.test"),
    "a host with a trailing space": get(host=b"Host: good.test "),
    "a host with a tab": get(host=b"Host:\tgood.test"),
    "a host with user information": get(host=b"Host: a@good.test"),
    "a host with a path": get(host=b"Host: good.test/x"),
    "a host with a NUL": get(host=b"Host: evil.test\0.good.test"),
    "a host above ASCII": get(host="Host: g\u014dod.test".encode()),
    "a host with an empty label": get(host=b"Host: good..test"),
    "a host with an empty port": get(host=b"Host: good.test:"),
    "two hosts in HTTP/1.0": get(b"Host: evil.test", start=b"GET / HTTP/1.0"),
    "an empty host in HTTP/1.0": get(start=b"GET / HTTP/1.0", host=b"Host:"),
    "an absolute target for another host": get(start=b"GET http://evil.test/ HTTP/1.1"),
    "an absolute target for another port": get(start=b"GET http://good.test:81/ HTTP/1.1"),
    "an absolute target without a host field": get(start=b"GET http://good.test/ HTTP/1.1", host=None),
    "CONNECT for another host": get(start=b"CONNECT evil.test:80 HTTP/1.1"),
    "CONNECT for another port": get(start=b"CONNECT good.test:80 HTTP/1.1", host=b"Host: good.test:81"),
    "CONNECT without a host field": get(start=b"CONNECT good.test:80 HTTP/1.1", host=None),
    "CONNECT with a length": get(b"Content-Length: 5", start=b"CONNECT good.test:80 HTTP/1.1"),
    "CONNECT with a length of zero": get(b"Content-Length: 0", start=b"CONNECT good.test:80 HTTP/1.1"),
    "CONNECT with chunks": get(b"Transfer-Encoding: chunked", start=b"CONNECT good.test:80 HTTP/1.1"),
    "length and chunks": get(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunks and length": get(b"Transfer-Encoding: chunked", b"Content-Length: 5"),
    "two lengths": get(b"Content-Length: 5", b"Content-Length: 6"),
    "the same length twice": get(b"Content-Length: 5", b"content-length: 5"),
    "a list of lengths": get(b"Content-Length: 5, 5"),
    "a length with a sign": get(b"Content-Length: +5"),
    "a negative length": get(b"Content-Length: -5"),
    "a hexadecimal length": get(b"Content-Length: 0x5"),
    "a length with a leading zero": get(b"Content-Length: 05"),
    "a length with an underscore": get(b"Content-Length: 1_0"),
    "a length with a trailing space": get(b"Content-Length: 5 "),
    "a length with a tab": get(b"Content-Length: \t5"),
    "a length of 19 digits": get(b"Content-Length: " + b"9" * 19),
    "a length in other digits": get("Content-Length: \uff15".encode()),
    "an empty length": get(b"Content-Length:"),
    "chunks twice": get(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunks in a list": get(b"Transfer-Encoding: chunked, chunked"),
    "chunks behind gzip": get(b"Transfer-Encoding: gzip, chunked"),
    "identity": get(b"Transfer-Encoding: identity"),
    "chunks in capitals": get(b"Transfer-Encoding: Chunked"),
    "chunks behind a vertical tab": get(b"Transfer-Encoding: \x0bchunked"),
    "chunks with a trailing space": get(b"Transfer-Encoding: chunked "),
    "an empty coding": get(b"Transfer-Encoding:"),
    "chunks in HTTP/1.0": get(b"Transfer-Encoding: chunked", start=b"GET / HTTP/1.0"),
    "a space before the colon": get(b"X : y"),
    "a space before the colon of a length": get(b"Content-Length : 5"),
    "a tab before the colon": get(b"X\t: y"),
    "a continued line": get(b"X: y", b" z"),
    "a continued first field": get(b"Content-Length: 5", host=b" Host: good.test"),
    "a line without a colon": get(b"X"),
    "a line without a name": get(b": y"),
    "a name above ASCII": get(b"X\xe9: y"),
    "a name with a space": get(b"X Y: z"),
    "a NUL in a value": get(b"X: y\0z"),
    "an escape in a value": get(b"X: \x1b[2J"),
    "DEL in a value": get(b"X: \x7f"),
    "another expectation": get(b"Expect: 200-ok"),
    "two expectations": get(b"Expect: 100-continue", b"Expect: 100-continue"),
    "LF alone behind a field": get(b"X: y\nContent-Length: 5"),
    "CR alone in a value": get(b"X: y\rContent-Length: 5"),
    "LF alone behind the request line": b"GET / HTTP/1.1\nHost: good.test\r\n\r\n",
    "only LF": b"GET / HTTP/1.1\nHost: good.test\n\n",
    "only LF at the end of a long head": b"GET / HTTP/1.1\r\n" + b"X: yyyyyyyyyy\r\n" * 1500 + b"Host: good.test\n\n",
    "an empty line first": b"\r\n" + get(),
    "two CR": b"GET / HTTP/1.1\r\r\nHost: good.test\r\n\r\n",
}


@pytest.mark.parametrize("head", REFUSED_LINES.values(), ids=REFUSED_LINES)
def test_heads_that_are_refused(head: bytes) -> None:
    """Whatever another program could read as another host or another length is malformed."""
    with pytest.raises(MalformedHeadError) as refused:
        read_request_head(head)
    assert (refused.value.status, refused.value.reason) == (400, Reason.MALFORMED)


TOO_LARGE = {
    "101 fields": (get(*[b"X: y"] * 100), 431),
    "64 KiB of fields": (get(b"X: " + b"y" * 64 * 1024), 431),
    "a field without an end": (b"GET / HTTP/1.1\r\nX: " + b"y" * 64 * 1024, 431),
    "a target of 16 KiB and one": (get(start=b"GET /" + b"a" * 16 * 1024 + b" HTTP/1.1"), 414),
    "a request line without an end": (b"GET /" + b"a" * 17 * 1024, 414),
}


@pytest.mark.parametrize(("head", "status"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_limits_have_their_own_reason(head: bytes, status: int) -> None:
    """A head that reaches a limit is refused as too large."""
    with pytest.raises(MalformedHeadError) as refused:
        read_request_head(head)
    assert (refused.value.status, refused.value.reason) == (status, Reason.OPENING_TOO_LARGE)


def test_limits_are_reached_only_beyond_them() -> None:
    """A hundred fields and a target of 16 KiB are read."""
    head = read(get(*[b"X: y"] * 99, start=b"GET /" + b"a" * (16 * 1024 - 1) + b" HTTP/1.1"))
    assert (len(head.headers), len(head.path)) == (100, 16 * 1024)


AUTHORITIES: dict[str, tuple[bytes, tuple[Host, int] | None, bool, str]] = {
    "a path and a host": (get(), (GOOD, 80), False, "/"),
    "a host with a port": (get(host=b"Host: good.test:8080"), (GOOD, 8080), True, "/"),
    "a host in capitals with a dot": (get(host=b"Host: GOOD.test."), (GOOD, 80), False, "/"),
    "a host without a space": (get(host=b"Host:good.test"), (GOOD, 80), False, "/"),
    "an IPv4 address": (get(host=b"Host: 192.0.2.1"), (IPv4Address("192.0.2.1"), 80), False, "/"),
    "an IPv6 address": (get(host=b"Host: [2001:db8::1]:81"), (IPv6Address("2001:db8::1"), 81), True, "/"),
    "an IPv6 address without a port": (get(host=b"Host: [2001:db8::1]"), (IPv6Address("2001:db8::1"), 80), False, "/"),
    "the user's machine": (get(host=b"Host: localhost:11434"), (HostService(), 11434), True, "/"),
    "no host in HTTP/1.0": (get(start=b"GET /x HTTP/1.0", host=None), None, False, "/x"),
    "an absolute target": (get(start=b"GET http://good.test/a?b HTTP/1.1"), (GOOD, 80), False, "/a?b"),
    "an absolute target in other letters": (get(start=b"GET http://Good.Test./ HTTP/1.1"), (GOOD, 80), False, "/"),
    "an absolute target with its port": (get(start=b"GET http://good.test:80/ HTTP/1.1"), (GOOD, 80), True, "/"),
    "an absolute target without a path": (get(start=b"GET http://good.test HTTP/1.1"), (GOOD, 80), False, "/"),
    "an absolute target with only a query": (get(start=b"GET http://good.test?q HTTP/1.1"), (GOOD, 80), False, "/?q"),
    "an absolute target in HTTP/1.0": (
        get(start=b"GET http://good.test/ HTTP/1.0", host=None), (GOOD, 80), False, "/",
    ),
    "options of the server": (get(start=b"OPTIONS * HTTP/1.1"), (GOOD, 80), False, "*"),
    "options of the server through a proxy": (get(start=b"OPTIONS http://good.test HTTP/1.1"), (GOOD, 80), False, "*"),
    "CONNECT": (get(start=b"CONNECT good.test:80 HTTP/1.1"), (GOOD, 80), True, ""),
    "CONNECT with another default": (get(start=b"CONNECT good.test:443 HTTP/1.1"), (GOOD, 443), True, ""),
    "a path that looks like a host": (get(start=b"GET //evil.test/ HTTP/1.1"), (GOOD, 80), False, "//evil.test/"),
}  # fmt: skip


@pytest.mark.parametrize(("buffer", "authority", "names_port", "path"), AUTHORITIES.values(), ids=AUTHORITIES)
def test_one_authority(buffer: bytes, authority: tuple[Host, int] | None, names_port: bool, path: str) -> None:  # noqa: FBT001 - a column of the table
    """Target and Host together give one host, one port and one path."""
    head = read(buffer)
    assert (head.authority, head.names_port, head.path) == (authority, names_port, path)


def test_inside_tls_the_port_is_443() -> None:
    """Inside intercepted TLS a host without a port is on 443, and an `http://` target is refused."""
    with pytest.raises(MalformedHeadError):
        read_request_head(get(start=b"GET http://good.test/ HTTP/1.1"), default_port=443)
    assert read(get(), default_port=443).authority == (GOOD, 443)


FRAMINGS: dict[str, tuple[bytes, RequestFraming]] = {
    "nothing said is no body": (get(), NoBody()),
    "a length": (get(b"Content-Length: 5"), Length(5)),
    "a length of zero is no body": (get(b"Content-Length: 0"), NoBody()),
    "a length of 18 digits": (get(b"Content-Length: " + b"9" * 18), Length(10**18 - 1)),
    "chunks": (get(b"Transfer-Encoding: chunked"), Chunked()),
    "curl posts": (CURL_POST, Length(3)),
    "curl uploads": (CURL_PUT, Chunked()),
}


@pytest.mark.parametrize(("buffer", "framing"), FRAMINGS.values(), ids=FRAMINGS)
def test_one_framing(buffer: bytes, framing: RequestFraming) -> None:
    """The fields say in one way where the body ends."""
    assert read(buffer).framing == framing


CONNECTIONS = {
    "HTTP/1.1 lives on": (get(), True),
    "close is close": (get(b"Connection: close"), False),
    "close in any case and place": (get(b"Connection: x, CLOSE"), False),
    "close in a second field": (get(b"Connection: keep-alive", b"Connection: close"), False),
    "HTTP/1.0 does not live on": (get(start=b"GET / HTTP/1.0"), False),
    "HTTP/1.0 does not live on when it asks either": (get(b"Connection: keep-alive", start=b"GET / HTTP/1.0"), False),
}


@pytest.mark.parametrize(("buffer", "lives_on"), CONNECTIONS.values(), ids=CONNECTIONS)
def test_keep_alive(buffer: bytes, lives_on: bool) -> None:  # noqa: FBT001 - a column of the table
    """The connection lives on when both versions and fields agree that it does."""
    assert read(buffer).is_keep_alive is lives_on


UPGRADES = {
    "a web socket": (get(b"Connection: Upgrade", b"Upgrade: websocket"), b"websocket"),
    "a web socket as some browsers ask": (get(b"Connection: keep-alive, upgrade", b"Upgrade: WebSocket"), b"WebSocket"),
    "not without Connection": (get(b"Upgrade: websocket"), None),
    "not without Upgrade": (get(b"Connection: Upgrade"), None),
    "not to unread HTTP/2": (CURL_HTTP2_UPGRADE, None),
    "not to TLS inside": (get(b"Connection: Upgrade", b"Upgrade: TLS/1.0"), None),
    "not to one of several": (get(b"Connection: Upgrade", b"Upgrade: websocket, h2c"), None),
    "not to two": (get(b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: h2c"), None),
    "not in HTTP/1.0": (get(b"Connection: Upgrade", b"Upgrade: websocket", start=b"GET / HTTP/1.0"), None),
    "not with a body": (get(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 1"), None),
    "not with CONNECT": (
        get(b"Connection: Upgrade", b"Upgrade: websocket", start=b"CONNECT good.test:80 HTTP/1.1"), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("buffer", "upgrade"), UPGRADES.values(), ids=UPGRADES)
def test_upgrades(buffer: bytes, upgrade: bytes | None) -> None:
    """One protocol is taken up, and none that hides requests."""
    head = read(buffer)
    assert head.upgrade == upgrade
    if head.method != "CONNECT":
        assert (b"Upgrade: " in upstream_head(head)) is (upgrade is not None)


REBUILT = {
    "what is for the proxy stays here": (
        CURL_PROXY_GET,
        b"GET / HTTP/1.1\r\nHost: example.com:8080\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n",
    ),
    "a wish for HTTP/2 stays here": (
        CURL_HTTP2_UPGRADE,
        b"GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n",
    ),
    "a plain request goes as it came": (CURL_GET, CURL_GET),
    "Host is canonical and first": (
        get(b"X: y", start=b"GET http://GOOD.test.:80/a?b HTTP/1.1"),
        b"GET /a?b HTTP/1.1\r\nHost: good.test\r\nX: y\r\n\r\n",
    ),
    "an IPv6 address keeps its brackets": (
        get(host=b"Host: [2001:DB8:0::1]:81"),
        b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:81\r\n\r\n",
    ),
    "the user's machine is localhost to itself": (
        get(host=b"Host: host.docker.internal:11434"),
        b"GET / HTTP/1.1\r\nHost: localhost:11434\r\n\r\n",
    ),
    "Connection cannot have other fields removed": (
        get(b"Connection: Authorization, Host", b"Authorization: x", b"Keep-Alive: 5", b"Trailer: y"),
        b"GET / HTTP/1.1\r\nHost: good.test\r\nAuthorization: x\r\n\r\n",
    ),
    "trailers are accepted on": (
        get(b"TE: gzip, trailers"),
        b"GET / HTTP/1.1\r\nHost: good.test\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
    ),
    "an upgrade is asked on": (
        get(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
        b"GET / HTTP/1.1\r\nHost: good.test\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\n\r\n",
    ),
    "the framing is kept": (
        get(b"content-length: 5", b"Expect: 100-continue"),
        b"GET / HTTP/1.1\r\nHost: good.test\r\ncontent-length: 5\r\nExpect: 100-continue\r\n\r\n",
    ),
    "bytes of values are kept": (get(b"X:  \xe9\t z "), b"GET / HTTP/1.1\r\nHost: good.test\r\nX: \xe9\t z\r\n\r\n"),
    "no host stays no host": (get(start=b"GET / HTTP/1.0", host=None), b"GET / HTTP/1.0\r\n\r\n"),
}


@pytest.mark.parametrize(("buffer", "expected"), REBUILT.values(), ids=REBUILT)
def test_the_head_for_the_far_end(buffer: bytes, expected: bytes) -> None:
    """The far end gets origin-form, one Host from the authority, and nothing that was meant for us."""
    rebuilt = upstream_head(read(buffer))
    assert rebuilt == expected
    if b"Host: localhost" not in rebuilt:
        assert read(rebuilt).authority == read(buffer).authority


def test_closing_is_said_to_the_far_end() -> None:
    """`close` adds the option; inside TLS the default port is not written."""
    head = read(get(host=b"Host: good.test:443"), default_port=443)
    assert upstream_head(head, default_port=443, close=True) == (
        b"GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n"
    )


@pytest.mark.parametrize("opening", [CURL_GET, CURL_PROXY_GET, CURL_CONNECT, CURL_PUT, PYTHON_CONNECT])
def test_byte_by_byte(opening: bytes) -> None:
    """Every part of a head wants more, the whole is read, and what follows is left alone."""
    for size in range(len(opening)):
        assert read_request_head(opening[:size]) is NEED_MORE
    answer = read_request_head(opening + b"\nbody\0")
    assert answer is not NEED_MORE
    assert answer == (read(opening), len(opening))


def test_what_goes_on_record_has_no_query() -> None:
    """The path on record ends before the query."""
    assert read(CURL_GET).path_without_query == "/a/b"
    assert read(CURL_CONNECT).path_without_query == ""


def test_expectations_and_forms() -> None:
    """The form of the target and the wish to be told to continue are kept."""
    assert read(CURL_PUT).expects_continue
    assert not read(get(b"Expect: 100-continue", start=b"GET / HTTP/1.0")).expects_continue
    forms = [read(head).form for head in (CURL_GET, CURL_PROXY_GET, CURL_CONNECT, get(start=b"OPTIONS * HTTP/1.1"))]
    assert forms == [TargetForm.ORIGIN, TargetForm.ABSOLUTE, TargetForm.AUTHORITY, TargetForm.ASTERISK]
    assert read(CURL_GET).values(b"accept") == (b"*/*",)


PIECE = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"\r\n",
        b"\r\n\r\n",
        b"Host: good.test",
        b"Content-Length: 1",
        b"\r",
        b"\n",
        b":",
        b" ",
        b"\t",
    ]
)
PIECES = st.lists(PIECE | st.binary(max_size=6), max_size=30)


@ARBITRARY
@given(PIECES)
def test_arbitrary_bytes_are_read_or_refused_for_good(pieces: list[bytes]) -> None:
    """Nothing but the documented error is raised, a refusal never changes, and what is read can be read again."""
    buffer = b"".join(pieces)
    refusals = []
    for size in range(len(buffer) + 1):
        try:
            answer = read_request_head(buffer[:size])
        except MalformedHeadError as error:
            refusals.append((str(error), error.status))
        else:
            assert not refusals
            if answer is not NEED_MORE and answer[0].form is not TargetForm.AUTHORITY:
                again = read(upstream_head(answer[0]))
                assert (again.authority, again.framing) == (answer[0].authority, answer[0].framing)
    assert len(set(refusals)) <= 1


@ARBITRARY
@given(st.binary(max_size=200))
def test_an_arbitrary_field_is_read_or_refused(line: bytes) -> None:
    """One line of noise never changes who the request is for."""
    with suppress(MalformedHeadError):
        answer = read_request_head(get(line, b"X: y"))
        assert answer is not NEED_MORE
        assert answer[0].authority == (GOOD, 80)
