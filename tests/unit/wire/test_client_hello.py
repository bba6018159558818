"""A ClientHello is read exactly as a server reads it, or it is refused."""

from __future__ import annotations

import ssl
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandhold.model.destination import DomainName, HostService
from sandhold.wire.client_hello import MalformedHelloError, parse_client_hello
from tests.unit.wire.peers import ARBITRARY, extension, hello_body, long_alpn, openssl_hello, server_name, vector

HEADERS_BYTES = 9  # of the record and of the handshake message


def body_of(opening: bytes) -> bytes:
    """Cut the two headers off a hello that is one record."""
    return opening[HEADERS_BYTES:]


REFUSED = {
    "an IPv4 address is no server name": (hello_body(server_name(b"192.0.2.1")), "address"),
    "the user's loopback address is no server name either": (hello_body(server_name(b"127.0.0.1")), "address"),
    "an IPv6 address is no server name": (hello_body(server_name(b"2001:db8::1")), "address"),
    "an IPv6 loopback address is no server name": (hello_body(server_name(b"::1")), "address"),
    "an IPv6 address in brackets is no server name": (hello_body(server_name(b"[::1]")), "address"),
    "a number that some resolvers take for an address": (hello_body(server_name(b"0x7f.1")), "number"),
    "a NUL hides what is behind it": (hello_body(server_name(b"evil.test\0.good.test")), "character"),
    "a name is ASCII": (hello_body(server_name("g\u014dod.test".encode())), "ASCII"),
    "a name is not empty": (hello_body(server_name(b"")), "empty"),
    "a name has no space": (hello_body(server_name(b"good.test ")), "character"),
    "a name has no port": (hello_body(server_name(b"good.test:443")), "refused"),
    "a name has two labels": (hello_body(server_name(b"intranet")), "single label"),
    "a name has at most 253 bytes": (hello_body(server_name(b"a." * 127 + b"test")), "253"),
    "a huge name is refused": (hello_body(server_name(b"a" * 60_000)), "too long"),
    "a wildcard is no name": (hello_body(server_name(b"*.good.test")), "character"),
    "one name, not two": (hello_body(server_name(b"good.test", b"evil.test")), "more than one"),
    "one name, not the same twice": (hello_body(server_name(b"good.test", b"good.test")), "more than one"),
    "only host names": (hello_body(server_name(b"good.test", name_type=1)), "no host name"),
    "an empty list of names": (hello_body(extension(0, vector(b""))), "empty"),
    "an empty server_name, as a server sends it": (hello_body(extension(0, b"")), "past its end"),
    "bytes behind the list of names": (hello_body(server_name(b"good.test")[:2] + vector(vector(b"") + b"x")), "empty"),
    "the extension twice": (hello_body(server_name(b"good.test") + server_name(b"evil.test")), "twice"),
    "any extension twice": (hello_body(extension(0x1234, b"") * 2), "twice"),
    "an empty list of protocols": (hello_body(extension(16, vector(b""))), "empty"),
    "an empty protocol": (hello_body(extension(16, vector(vector(b"", 1)))), "empty protocol"),
    "bytes behind the protocols": (hello_body(extension(16, vector(vector(b"h2", 1)) + b"x")), "behind"),
    "half a version": (hello_body(extension(43, vector(b"\x03\x04\x03", 1))), "past its end"),
    "no version": (hello_body(extension(43, vector(b"", 1))), "empty"),
    "an encrypted name of the draft": (hello_body(extension(0xFFCE, b"x")), "draft"),
    "a version of SSL": (hello_body(version=0x0300), "no version"),
    "a legacy version above 1.2": (hello_body(version=0x0304), "no version"),
    "bytes behind the extensions": (hello_body(behind=b"\0"), "behind"),
    "bytes behind a hello without extensions": (hello_body(None, behind=b"\0"), "past its end"),
    "an extension longer than their list": (hello_body(b"\0\0\0\x05abc"), "past its end"),
    "a session id of 33 bytes": (b"\x03\x03" + bytes(32) + vector(bytes(33), 1), "session id"),
    "no cipher suite": (b"\x03\x03" + bytes(32) + b"\0" + vector(b"") + b"\1\0", "cipher"),
    "half a cipher suite": (b"\x03\x03" + bytes(32) + b"\0" + vector(b"123") + b"\1\0", "cipher"),
    "no compression method": (b"\x03\x03" + bytes(32) + b"\0" + vector(b"12") + b"\0", "compression"),
    "nothing": (b"", "past its end"),
}


@pytest.mark.parametrize(("body", "detail"), REFUSED.values(), ids=REFUSED)
def test_what_can_be_read_differently_is_refused(body: bytes, detail: str) -> None:
    """A hello that two programs could take for two hosts, or that does not fit, is refused and says why."""
    with pytest.raises(MalformedHelloError, match=detail):
        parse_client_hello(body)


NAMES = {
    "case is folded": (b"GOOD.Test", DomainName("good.test")),
    "a trailing dot is the same name": (b"good.test.", DomainName("good.test")),
    "an underscore is a name's": (b"_x.good.test", DomainName("_x.good.test")),
    "an A-label is compared as it is": (b"xn--bcher-kva.test", DomainName("xn--bcher-kva.test")),
    "the user's machine by name": (b"host.docker.internal", HostService()),
    "the user's machine by its own name": (b"LOCALHOST.", HostService()),
}


@pytest.mark.parametrize(("name", "host"), NAMES.values(), ids=NAMES)
def test_one_name_is_one_host(name: bytes, host: DomainName | HostService) -> None:
    """The server name becomes the canonical host."""
    assert parse_client_hello(hello_body(server_name(name))).server_name == host


def test_openssl_is_understood() -> None:
    """OpenSSL's own hello gives the name, the protocols in its order and the versions."""
    hello = parse_client_hello(body_of(openssl_hello("www.example.com", ("h2", "http/1.1"))))
    assert hello.server_name == DomainName("www.example.com")
    assert hello.alpn == (b"h2", b"http/1.1")
    assert hello.versions == (0x0304, 0x0303)
    assert not hello.has_encrypted_client_hello


def test_openssl_without_a_name() -> None:
    """A hello without a server name has none; it is not refused here."""
    assert parse_client_hello(body_of(openssl_hello(None))).server_name is None


def test_an_older_openssl_has_one_version() -> None:
    """Without `supported_versions`, the legacy version is the only one."""
    hello = parse_client_hello(body_of(openssl_hello(version=ssl.TLSVersion.TLSv1_2)))
    assert hello.versions == (0x0303,)


def test_many_protocols_are_all_read() -> None:
    """A hello longer than a TCP segment is read to its end."""
    opening = openssl_hello(alpn=long_alpn())
    assert len(opening) > 1500
    assert parse_client_hello(body_of(opening)).alpn == tuple(name.encode() for name in long_alpn())


def test_a_hello_may_have_no_extensions() -> None:
    """TLS 1.2 without the extensions block is whole."""
    hello = parse_client_hello(hello_body(None))
    assert (hello.server_name, hello.alpn, hello.versions) == (None, (), (0x0303,))


def test_an_encrypted_hello_is_seen() -> None:
    """The outer name is judged, and that there is an inner hello is said."""
    hello = parse_client_hello(hello_body(server_name(b"good.test") + extension(0xFE0D, b"\0" * 40)))
    assert hello.has_encrypted_client_hello
    assert hello.server_name == DomainName("good.test")


def test_grease_is_no_version() -> None:
    """Values that mean nothing are left out of the versions, values that only look alike are kept."""
    listed = extension(43, vector(b"\x1a\x1a\x03\x04\x1a\x2a", 1))
    assert parse_client_hello(hello_body(listed)).versions == (0x0304, 0x1A2A)


def test_no_part_of_a_hello_is_a_hello() -> None:
    """Every shorter body is refused, so that a cut one is never judged."""
    body = hello_body(server_name(b"good.test") + extension(16, vector(vector(b"h2", 1))))
    start = len(hello_body(None))
    for size in (size for size in range(len(body)) if size != start):
        with pytest.raises(MalformedHelloError):
            parse_client_hello(body[:size])


@ARBITRARY
@given(st.binary(max_size=300), st.integers(0, 80))
def test_arbitrary_bytes_are_read_or_refused(noise: bytes, kept: int) -> None:
    """Nothing but the documented error is raised, also when a real hello goes wrong in the middle."""
    body = hello_body(server_name(b"good.test") + extension(16, vector(vector(b"h2", 1))))
    for data in (noise, body[:kept] + noise, hello_body(noise), hello_body(extension(0, noise))):
        with suppress(MalformedHelloError):
            parse_client_hello(data)
