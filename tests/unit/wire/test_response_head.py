"""A response head ends in one place, whatever its fields say, or it is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandhold.model.decision import Reason
from sandhold.wire.framing import Chunked, Length, NoBody, UntilClose
from sandhold.wire.need_more import NEED_MORE
from sandhold.wire.response_head import MalformedHeadError, ResponseHead, downstream_head, read_response_head
from tests.unit.wire.peers import ARBITRARY

if TYPE_CHECKING:
    from sandhold.wire.framing import ResponseFraming

NGINX = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 23 Nov 2026 17:00:00 GMT\r\nContent-Type: text/html\r\n"
    b'Content-Length: 615\r\nConnection: keep-alive\r\nETag: "6740a4b2-267"\r\nAccept-Ranges: bytes\r\n\r\n'
)
PYTHON_SERVER = (
    b"HTTP/1.0 200 OK\r\nServer: SimpleHTTP/0.6 Python/3.11.7\r\nDate: Mon, 23 Nov 2026 17:00:00 GMT\r\n"
    b"Content-type: text/html; charset=utf-8\r\nContent-Length: 34\r\n\r\n"
)


def response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """Write a head from its lines."""
    return b"\r\n".join([start, *lines, b"", b""])


def read(buffer: bytes, method: str = "GET") -> ResponseHead:
    """Read a whole head."""
    answer = read_response_head(buffer, method)
    assert answer is not NEED_MORE
    head, consumed = answer
    assert consumed == len(buffer)
    return head


REFUSED = {
    "no version": b"200 OK",
    "another protocol": b"ICY 200 OK",
    "another version": b"HTTP/1.2 200 OK",
    "HTTP/2": b"HTTP/2 200",
    "no status": b"HTTP/1.1 ",
    "a status of two digits": b"HTTP/1.1 99 OK",
    "a status of four digits": b"HTTP/1.1 2000 OK",
    "a status below 100": b"HTTP/1.1 099 OK",
    "a status in other digits": "HTTP/1.1 \uff12\uff10\uff10 OK".encode(),
    "two spaces before the status": b"HTTP/1.1  200 OK",
    "a reason without a space": b"HTTP/1.1 200OK",
    "an escape in the reason": b"HTTP/1.1 200 \x1b[2J",
    "a NUL in the reason": b"HTTP/1.1 200 O\0K",
}


@pytest.mark.parametrize("start", REFUSED.values(), ids=REFUSED)
def test_status_lines_that_are_refused(start: bytes) -> None:
    """Whatever is not exactly a status line of HTTP/1 is malformed."""
    with pytest.raises(MalformedHeadError):
        read_response_head(response(start=start), "GET")


REFUSED_FIELDS = {
    "length and chunks": response(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "two lengths": response(b"Content-Length: 5", b"Content-Length: 5"),
    "a list of lengths": response(b"Content-Length: 5, 5"),
    "a coding that is not chunked": response(b"Transfer-Encoding: gzip"),
    "chunks in HTTP/1.0": response(b"Transfer-Encoding: chunked", start=b"HTTP/1.0 200 OK"),
    "204 with a body": response(b"Content-Length: 5", start=b"HTTP/1.1 204 No Content"),
    "204 with chunks": response(b"Transfer-Encoding: chunked", start=b"HTTP/1.1 204 No Content"),
    "100 with a body": response(b"Content-Length: 5", start=b"HTTP/1.1 100 Continue"),
    "101 with chunks": response(b"Transfer-Encoding: chunked", start=b"HTTP/1.1 101 Switching Protocols"),
    "a continued line": response(b"X: y", b"\tz"),
    "a space before the colon": response(b"X : y"),
    "a NUL": response(b"X: \0"),
    "LF alone": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "an empty line first": b"\r\n" + response(),
}


@pytest.mark.parametrize("buffer", REFUSED_FIELDS.values(), ids=REFUSED_FIELDS)
def test_fields_that_are_refused(buffer: bytes) -> None:
    """A head whose end of body two programs could see in two places is malformed."""
    with pytest.raises(MalformedHeadError) as refused:
        read_response_head(buffer, "GET")
    assert refused.value.reason is Reason.MALFORMED


FRAMINGS: dict[str, tuple[bytes, str, ResponseFraming]] = {
    "a length": (NGINX, "GET", Length(615)),
    "no body to HEAD, with a length": (NGINX, "HEAD", NoBody()),
    "no body to HEAD, with chunks": (response(b"Transfer-Encoding: chunked"), "HEAD", NoBody()),
    "only HEAD in capitals": (NGINX, "head", Length(615)),
    "a length of zero": (response(b"Content-Length: 0"), "GET", NoBody()),
    "chunks": (response(b"Transfer-Encoding: chunked"), "GET", Chunked()),
    "nothing said lasts until close": (response(), "GET", UntilClose()),
    "304 has no body, with a length": (response(b"Content-Length: 5", start=b"HTTP/1.1 304 x"), "GET", NoBody()),
    "204 has no body": (response(start=b"HTTP/1.1 204 No Content"), "GET", NoBody()),
    "204 may say zero": (response(b"Content-Length: 0", start=b"HTTP/1.1 204 No Content"), "GET", NoBody()),
    "100 has no body": (response(start=b"HTTP/1.1 100 Continue"), "POST", NoBody()),
    "101 has no body": (response(start=b"HTTP/1.1 101 Switching Protocols"), "GET", NoBody()),
    "200 to CONNECT has no body": (response(start=b"HTTP/1.1 200 Connection established"), "CONNECT", NoBody()),
    "407 to CONNECT has one": (response(b"Content-Length: 5", start=b"HTTP/1.1 407 x"), "CONNECT", Length(5)),
    "HTTP/1.0 without a length": (response(start=b"HTTP/1.0 200 OK"), "GET", UntilClose()),
}


@pytest.mark.parametrize(("buffer", "method", "framing"), FRAMINGS.values(), ids=FRAMINGS)
def test_one_framing(buffer: bytes, method: str, framing: ResponseFraming) -> None:
    """Method, status and fields say in one way where the body ends."""
    assert read(buffer, method).framing == framing


CONNECTIONS = {
    "HTTP/1.1 lives on": (NGINX, True),
    "HTTP/1.0 does not": (PYTHON_SERVER, False),
    "close is close": (response(b"Content-Length: 0", b"Connection: Close"), False),
    "a body until close is close": (response(b"Connection: keep-alive"), False),
}


@pytest.mark.parametrize(("buffer", "lives_on"), CONNECTIONS.values(), ids=CONNECTIONS)
def test_keep_alive(buffer: bytes, lives_on: bool) -> None:  # noqa: FBT001 - a column of the table
    """The connection to the far end lives on only when everything agrees."""
    assert read(buffer).is_keep_alive is lives_on


def test_status_and_reason() -> None:
    """Status and reason are kept, also an empty reason, with or without its space."""
    assert (read(NGINX).status, read(NGINX).reason) == (200, b"OK")
    assert [read(response(start=b"HTTP/1.1 200" + space)).reason for space in (b"", b" ")] == [b"", b""]
    assert read(response(start=b"HTTP/1.1 999 Request denied")).status == 999


def test_interim_and_upgrade() -> None:
    """An interim head is followed by another, a 101 by another protocol."""
    interim = read(response(start=b"HTTP/1.1 103 Early Hints"))
    upgrade = read(response(start=b"HTTP/1.1 101 Switching Protocols"))
    assert (interim.is_interim, interim.is_upgrade) == (True, False)
    assert (upgrade.is_interim, upgrade.is_upgrade) == (False, True)
    assert (read(NGINX).is_interim, read(NGINX).is_upgrade) == (False, False)


REBUILT = {
    "what was for our connection stays here": (
        response(b"Connection: keep-alive, X-Y", b"Keep-Alive: timeout=5", b"X-Y: z", b"Transfer-Encoding: chunked"),
        b"HTTP/1.1 200 OK\r\nX-Y: z\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    "an unasked wish to upgrade stays here": (
        response(b"Upgrade: h2,h2c", b"Connection: Upgrade", b"Content-Length: 0"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
    "an upgrade is passed on": (
        response(b"upgrade: websocket", b"connection: upgrade", b"A: b", start=b"HTTP/1.1 101 Switching Protocols"),
        b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ),
    "an empty reason": (response(start=b"HTTP/1.1 200"), b"HTTP/1.1 200 \r\n\r\n"),
}


@pytest.mark.parametrize(("buffer", "expected"), REBUILT.values(), ids=REBUILT)
def test_the_head_for_the_sandbox(buffer: bytes, expected: bytes) -> None:
    """The sandbox gets status, reason and fields, without those that were for our connection."""
    assert downstream_head(read(buffer)) == expected


def test_closing_is_said_to_the_sandbox() -> None:
    """`close` adds the option, though not to an upgrade."""
    assert downstream_head(read(response()), close=True) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    upgrade = read(response(b"Upgrade: x", start=b"HTTP/1.1 101 y"))
    assert b"close" not in downstream_head(upgrade, close=True)


@pytest.mark.parametrize("opening", [NGINX, PYTHON_SERVER])
def test_byte_by_byte(opening: bytes) -> None:
    """Every part of a head wants more, the whole is read, and what follows is left alone."""
    for size in range(len(opening)):
        assert read_response_head(opening[:size], "GET") is NEED_MORE
    assert read_response_head(opening + b"\nbody\0", "GET") == (read(opening), len(opening))


def test_an_endless_head_is_too_large() -> None:
    """A head that does not end is refused with the reason of a limit."""
    with pytest.raises(MalformedHeadError) as refused:
        read_response_head(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "GET")
    assert refused.value.reason is Reason.OPENING_TOO_LARGE


PIECE = st.sampled_from([b"HTTP/1.1 200 OK", b"\r\n", b"\r\n\r\n", b"Content-Length: 1", b"\r", b"\n", b":", b" "])


@ARBITRARY
@given(st.lists(PIECE | st.binary(max_size=6), max_size=30))
def test_arbitrary_bytes_are_read_or_refused_for_good(pieces: list[bytes]) -> None:
    """Nothing but the documented error is raised, a refusal never changes, and what is read can be read again."""
    buffer = b"".join(pieces)
    refusals = []
    for size in range(len(buffer) + 1):
        try:
            answer = read_response_head(buffer[:size], "GET")
        except MalformedHeadError as error:
            refusals.append(str(error))
        else:
            assert not refusals
            if answer is not NEED_MORE:
                assert read(downstream_head(answer[0])).framing == answer[0].framing
    assert len(set(refusals)) <= 1
