"""What real programs send, and a ClientHello put together by hand where no real program would send it."""

from __future__ import annotations

import ssl
from typing import Final

from hypothesis import settings

ARBITRARY: Final = settings(deadline=None, database=None, max_examples=200)

# The first bytes of programs, as they came to a socket.
CURL_GET: Final = b"GET /a/b?c=d HTTP/1.1\r\nHost: example.com\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n\r\n"
CURL_PROXY_GET: Final = (
    b"GET http://example.com:8080/ HTTP/1.1\r\nHost: example.com:8080\r\nProxy-Authorization: Basic dTpw\r\n"
    b"User-Agent: curl/7.88.1\r\nAccept: */*\r\nProxy-Connection: Keep-Alive\r\n\r\n"
)
CURL_CONNECT: Final = (
    b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nUser-Agent: curl/7.88.1\r\n"
    b"Proxy-Connection: Keep-Alive\r\n\r\n"
)
CURL_HTTP2_UPGRADE: Final = (
    b"GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n"
)
CURL_PUT: Final = (
    b"PUT /up HTTP/1.1\r\nHost: example.com\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
    b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
)
CURL_POST: Final = (
    b"POST /up HTTP/1.1\r\nHost: example.com\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
    b"Content-Length: 3\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
)
PYTHON_CONNECT: Final = b"CONNECT example.com:443 HTTP/1.0\r\n\r\n"
HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GIT_DAEMON: Final = b"003bgit-upload-pack /r.git\x00host=127.0.0.1:38345\x00\x00version=2\x00"
OPENSSH: Final = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u6\r\n"
POSTGRES_TLS: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
REDIS: Final = b"*1\r\n$4\r\nPING\r\n"


def openssl_hello(
    server_name: str | None = "example.com", alpn: tuple[str, ...] = (), version: ssl.TLSVersion | None = None
) -> bytes:
    """Return the bytes that OpenSSL sends first: one or more records with one ClientHello."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # without it a distribution's settings decide (openssl.cnf)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if version is not None:
        context.maximum_version = version
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name)
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a far end is never done")


def long_alpn() -> tuple[str, ...]:
    """Return protocol names that make a ClientHello far longer than one TCP segment."""
    return (*(f"protocol-{number:03}-" + "x" * 40 for number in range(40)), "h2", "http/1.1")


def vector(data: bytes, length_size: int = 2) -> bytes:
    """Put the length before some bytes."""
    return len(data).to_bytes(length_size, "big") + data


def extension(number: int, data: bytes) -> bytes:
    """Write one extension."""
    return number.to_bytes(2, "big") + vector(data)


def server_name(*names: bytes, name_type: int = 0) -> bytes:
    """Write a `server_name` extension."""
    return extension(0, vector(b"".join(bytes([name_type]) + vector(name) for name in names)))


def hello_body(extensions: bytes | None = b"", *, version: int = 0x0303, behind: bytes = b"") -> bytes:
    """Write the body of a ClientHello; None leaves the extensions out as a whole."""
    start = version.to_bytes(2, "big") + bytes(32) + vector(b"", 1) + vector(b"\x13\x01") + vector(b"\0", 1)
    return start + (b"" if extensions is None else vector(extensions)) + behind


def handshake(body: bytes, message_type: int = 1) -> bytes:
    """Put the handshake header before a body."""
    return bytes([message_type]) + vector(body, 3)


def records(message: bytes, size: int = 2**14, version: int = 0x0301) -> bytes:
    """Cut a handshake message into records of at most `size` bytes."""
    parts = (message[at : at + size] for at in range(0, len(message), size))
    return b"".join(b"\x16" + version.to_bytes(2, "big") + vector(part) for part in parts)
