"""The end of a chunked body is where every other program sees it, or the body is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandhold.wire.chunked import (
    SIZE_LINE_BYTES_MAX,
    TRAILER_BYTES_MAX,
    TRAILERS_MAX,
    ChunkedReader,
    MalformedBodyError,
)
from tests.unit.wire.peers import ARBITRARY

FORBIDDEN_TRAILERS = [
    b"Host",
    b"HOST",
    b"Authorization",
    b"Proxy-Authorization",
    b"Cookie",
    b"Content-Length",
    b"Transfer-Encoding",
    b"TE",
    b"Trailer",
    b"Connection",
    b"Upgrade",
    b"Content-Type",
    b"Content-Encoding",
    b"Expect",
]


def follow(pieces: list[bytes]) -> tuple[bytes, bool]:
    """Feed pieces as a caller does, keeping what was not consumed; return what may be forwarded."""
    reader = ChunkedReader()
    held = forwarded = b""
    is_done = False
    for piece in pieces:
        held += piece
        consumed, is_done = reader.feed(held)
        forwarded += held[:consumed]
        held = held[consumed:]
    return forwarded, is_done


def test_bytes_are_forwarded_as_they_are() -> None:
    """A body is forwarded unchanged up to its end, and what follows is left alone."""
    body = b"5\r\nhello\r\n00A;x=y\r\n0123456789\r\n0\r\nX-Checksum: 1\r\n\r\n"
    assert follow([body + b"GET / HTTP/1.1\r\n"]) == (body, True)


BODIES = {
    "curl uploads": b"3\r\nabc\r\n0\r\n\r\n",
    "an empty body": b"0\r\n\r\n",
    "several zeros": b"000\r\n\r\n",
    "upper and lower case": b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
    "CR LF inside data": b"6\r\n0\r\n\r\n1\r\n0\r\n\r\n",
    "extensions": b'1;a;b=c;d="e;\\" f"\r\nx\r\n0;last\r\n\r\n',
    "trailers": b"0\r\nServer-Timing: a\r\nETag: b\r\n\r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_byte_by_byte(body: bytes) -> None:
    """However a body is cut, it ends with its last byte and not before, and every byte is forwarded."""
    assert follow([bytes([byte]) for byte in body]) == (body, True)
    for size in range(len(body)):
        forwarded, is_done = follow([body[:size]])
        assert not is_done
        assert body.startswith(forwarded)


REFUSED = {
    "no size": b"\r\n",
    "a negative size": b"-1\r\n",
    "a size with a sign": b"+1\r\n",
    "a size with a prefix": b"0x1\r\n",
    "a size with an underscore": b"1_0\r\n",
    "a size behind a space": b" 1\r\n",
    "a size before a space": b"1 \r\n",
    "a size before a tab": b"1\t\r\n",
    "a size in no digits": b"g\r\n",
    "a size of 17 digits": b"0" * 16 + b"1\r\n",
    "a size that overflows": b"8000000000000000\r\n",
    "a size in other digits": "\uff11\r\n".encode(),
    "a size line with LF alone": b"1\nx\r\n",
    "a size line with CR alone": b"1\rx",
    "a size line with two CR": b"1\r\r\n",
    "an extension with LF": b"1;\nx\r\n",
    "an extension with a space": b"1; a\r\n",
    "an extension without a name": b"1;\r\n",
    "an extension without a value": b"1;a=\r\n",
    "an extension with a NUL": b"1;a=\0\r\n",
    "a quoted extension without an end": b'1;a="b\r\n',
    "a comma behind the size": b"1,2\r\n",
    "data longer than its size": b"1\r\nxy",
    "data that ends with LF": b"1\r\nx\n",
    "data that ends with CR and something": b"1\r\nx\rX",
    "the end with LF alone": b"0\r\n\n",
    "the end with CR and something": b"0\r\n\rX",
    "a trailer without a colon": b"0\r\nX\r\n",
    "a trailer with a space before the colon": b"0\r\nX : y\r\n",
    "a continued trailer": b"0\r\nX: y\r\n z\r\n",
    "a trailer with a NUL": b"0\r\nX: \0\r\n",
    "a trailer with LF alone": b"0\r\nX: y\n",
    "too many trailers": b"0\r\n" + b"X: y\r\n" * (TRAILERS_MAX + 1),
    "a size line without an end": b"1;" + b"a" * SIZE_LINE_BYTES_MAX,
    "a trailer without an end": b"0\r\nX: " + b"a" * TRAILER_BYTES_MAX,
    "a huge extension": b"1;a=" + b"a" * SIZE_LINE_BYTES_MAX + b"\r\n",
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_what_can_be_read_differently_is_refused(body: bytes) -> None:
    """A body is refused at once, whether it comes in one piece or byte by byte."""
    with pytest.raises(MalformedBodyError):
        follow([body])
    with pytest.raises(MalformedBodyError):
        follow([bytes([byte]) for byte in body])


@pytest.mark.parametrize("name", FORBIDDEN_TRAILERS)
def test_trailers_cannot_route_or_frame(name: bytes) -> None:
    """A field that decides who a message is for, where it ends or who sent it is refused behind the body."""
    with pytest.raises(MalformedBodyError, match="head"):
        follow([b"0\r\n" + name + b": 1\r\n\r\n"])


def test_limits_are_reached_only_beyond_them() -> None:
    """The longest size line and the most trailers of the greatest length are read."""
    extension = b";" + b"a" * (SIZE_LINE_BYTES_MAX - 2)
    trailers = (b"X: " + b"y" * (TRAILER_BYTES_MAX - 3) + b"\r\n") * TRAILERS_MAX
    body = b"1" + extension + b"\r\nx\r\n0" + extension + b"\r\n" + trailers + b"\r\n"
    assert follow([body]) == (body, True)


def test_the_largest_size_is_counted() -> None:
    """A chunk just below the limit of 2**63 is followed without its bytes being held."""
    reader = ChunkedReader()
    assert reader.feed(b"7fffffffffffffff\r\n") == (18, False)
    assert reader.feed(b"x" * 1000) == (1000, False)


def test_nothing_is_taken_behind_the_end() -> None:
    """After its end a reader takes nothing and stays at its end."""
    reader = ChunkedReader()
    assert reader.feed(b"0\r\n\r\n") == (5, True)
    assert reader.feed(b"5\r\n") == (0, True)


@ARBITRARY
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=10), st.data())
def test_any_body_ends_where_it_was_ended(chunks: list[bytes], data: st.DataObject) -> None:
    """A body written from any data is followed to its end, however it is cut."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    edges = [0, *cuts, len(body)]
    assert follow([body[a:b] for a, b in pairwise(edges)]) == (body, True)


@ARBITRARY
@given(st.lists(st.sampled_from([b"0", b"1", b"\r\n", b"\r", b"\n", b";a", b"X: y", b"x"]) | st.binary(max_size=4)))
def test_arbitrary_bytes_are_judged_the_same_however_cut(pieces: list[bytes]) -> None:
    """Nothing but the documented error is raised, and the verdict does not depend on how the bytes came."""
    body = b"".join(pieces)

    def verdict(parts: list[bytes]) -> tuple[bytes, bool] | None:
        try:
            return follow(parts)
        except MalformedBodyError:
            return None

    assert verdict([body]) == verdict([bytes([byte]) for byte in body] or [b""])
