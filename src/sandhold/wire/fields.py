"""The lines of an HTTP/1 head, read so that no other program can read them differently (RFC 9112 sections 2 and 5).

1. A line ends with CR LF; CR and LF stand nowhere else. The head ends with the first empty line and is not empty.
2. A field line is a token, a colon without white space before it, and a value of visible characters, spaces, tabs and
   bytes from 0x80; NUL and every other control byte is refused. A line never continues on the next (no obs-fold).
3. The names that say who a message is for or where it ends (`Host`, `Content-Length`, `Transfer-Encoding`) stand at
   most once, and their value has no tab and no white space behind it.
4. A length is `0` or digits without a leading zero, sign or list; the only transfer coding is `chunked`, and not in
   HTTP/1.0; the two exclude each other.
5. The start line, the head and the number of fields are limited.
"""

from __future__ import annotations

import re
from typing import Final

from sandhold.model.decision import Reason
from sandhold.wire.framing import Chunked, Length, NoBody
from sandhold.wire.need_more import NEED_MORE, NeedMore

HEAD_BYTES_MAX: Final = 64 * 1024  # what common servers take at most, several times what browsers send
FIELDS_MAX: Final = 100  # as Apache; a real request has about fifteen
METHOD_CHARS_MAX: Final = 32  # the longest registered method has 17
TARGET_BYTES_MAX: Final = 16 * 1024  # RFC 9112 section 3 asks for 8000
START_LINE_BYTES_MAX: Final = METHOD_CHARS_MAX + 1 + TARGET_BYTES_MAX + len(b" HTTP/1.1")
LENGTH_DIGITS_MAX: Final = 18  # below 2**63, so that no reader's integer overflows

Fields = tuple[tuple[bytes, bytes], ...]
"""Names as they were sent, values without the white space around them."""

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 section 5.6.2
_FIELD = re.compile(rb"(" + TOKEN + rb"):([\t -~\x80-\xff]*)")  # the value: RFC 9110 section 5.5
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,%d}" % (LENGTH_DIGITS_MAX - 1))
_STRICT: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})
_CONNECTION_ONLY: Final = frozenset(
    {
        b"connection",
        b"proxy-connection",
        b"proxy-authorization",
        b"keep-alive",
        b"te",
        b"trailer",
        b"upgrade",
        b"http2-settings",
    }
)


class MalformedHeadError(ValueError):
    """A head that is refused; `str()` says why in our own words and never repeats the bytes.

    `reason` is `MALFORMED` or `OPENING_TOO_LARGE`; `status` is what a request is answered with: 400, 414, 431 or 505.
    """

    def __init__(self, detail: str, *, reason: Reason = Reason.MALFORMED, status: int = 400) -> None:
        super().__init__(detail)
        self.reason = reason
        self.status = status


def split_head(buffer: bytes) -> tuple[list[bytes], int] | NeedMore:
    """Cut the head that `buffer` starts with into its lines by rules 1 and 5; the number is how many bytes it took.

    Every limit is looked at before what lies behind it, so that more bytes never lift a refusal.

    Raises:
        MalformedHeadError: when a line ends in anything but CR LF, or a limit is reached.
    """
    end = buffer.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
    whole = buffer[: end + 4] if end >= 0 else buffer[:HEAD_BYTES_MAX]
    if whole.startswith(b"\r\n"):
        raise MalformedHeadError("an empty line before the start line")
    if len(whole) >= START_LINE_BYTES_MAX + 2:
        _check_line_ends(whole[: START_LINE_BYTES_MAX + 2])
        if whole.find(b"\r\n", 0, START_LINE_BYTES_MAX + 2) < 0:
            raise MalformedHeadError("the start line is too long", reason=Reason.OPENING_TOO_LARGE, status=414)
    _check_line_ends(whole)
    if whole.count(b"\r\n") > FIELDS_MAX + (2 if end >= 0 else 1):  # the start line, and what ends the head
        raise MalformedHeadError("too many fields", reason=Reason.OPENING_TOO_LARGE, status=431)
    if end < 0:
        if len(buffer) >= HEAD_BYTES_MAX:
            raise MalformedHeadError("the head is too large", reason=Reason.OPENING_TOO_LARGE, status=431)
        return NEED_MORE
    return whole[:end].split(b"\r\n"), end + 4


def parse_fields(lines: list[bytes]) -> Fields:
    """Read field lines by rules 2 and 3.

    Raises:
        MalformedHeadError: when one of them is refused.
    """
    fields = []
    seen = set()
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise MalformedHeadError("a field line is not `name: value`")
        name, written = match.groups()
        value = written.strip(b" \t")
        folded = name.lower()
        if folded in _STRICT:
            if folded in seen:
                raise MalformedHeadError("a field that must be single stands twice")
            if written.lstrip(b" ") != value:
                raise MalformedHeadError("white space round a value that must be exact")
            seen.add(folded)
        fields.append((name, value))
    return tuple(fields)


def parse_framing(fields: Fields, version: str) -> NoBody | Length | Chunked | None:
    """Read where the body ends by rule 4; None when no field says it.

    Raises:
        MalformedHeadError: when the fields contradict each other or say it in any other way.
    """
    lengths = field_values(fields, b"content-length")
    codings = field_values(fields, b"transfer-encoding")
    if codings:
        if lengths:
            raise MalformedHeadError("both Content-Length and Transfer-Encoding")
        if version != "HTTP/1.1":
            raise MalformedHeadError("Transfer-Encoding in HTTP/1.0")
        if codings != (b"chunked",):
            raise MalformedHeadError("a transfer coding other than chunked")
        return Chunked()
    if not lengths:
        return None
    if not _LENGTH.fullmatch(lengths[0]):
        raise MalformedHeadError("Content-Length is not a plain number")
    size = int(lengths[0])
    return Length(size) if size else NoBody()


def field_values(fields: Fields, name: bytes) -> tuple[bytes, ...]:
    """Every value of the fields called `name` (lower case), in order."""
    size = len(name)
    return tuple([value for key, value in fields if len(key) == size and key.lower() == name])


def field_tokens(fields: Fields, name: bytes) -> tuple[bytes, ...]:
    """The lower-case elements of the comma lists called `name` (RFC 9110 section 5.6.1); empty ones are left out."""
    values = field_values(fields, name)
    if not values:
        return ()
    listed = b",".join(values).lower()
    return tuple(element for part in listed.split(b",") if (element := part.strip(b" \t")))


def is_keep_alive(fields: Fields, version: str) -> bool:
    """Whether the connection lives on after the message.

    Never in HTTP/1.0, whose persistence a proxy must not take up (RFC 9112 appendix C.2.2).
    """
    return version == "HTTP/1.1" and b"close" not in field_tokens(fields, b"connection")


def end_to_end(fields: Fields) -> Fields:
    """Leave out the fields that are for one connection only (RFC 9110 section 7.6.1).

    Only the standard ones: a `Connection` field cannot name others, or the sandbox could have `Authorization` removed.
    """
    return tuple([field for field in fields if field[0].lower() not in _CONNECTION_ONLY])


def write_head(start_line: bytes, fields: Fields) -> bytes:
    """Put a head together; the inverse of `split_head` and `parse_fields`."""
    lines = [start_line, *[name + b": " + value for name, value in fields], b"", b""]
    return b"\r\n".join(lines)


def _check_line_ends(part: bytes) -> None:
    pairs = part.count(b"\r\n")
    if part.count(b"\n") != pairs or part.count(b"\r") - part.endswith(b"\r") != pairs:
        raise MalformedHeadError("CR or LF alone")
