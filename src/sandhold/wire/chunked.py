"""The end of a chunked body, found without changing a byte of it (RFC 9112 section 7.1).

1. Every line ends with CR LF; CR and LF stand nowhere else in one.
2. A size is 1 to 16 hexadecimal digits, below 2**63; no sign, prefix or white space.
3. An extension is `;name`, `;name=token` or `;name="quoted"`, without white space round it.
4. The bytes behind the data of a chunk are CR LF.
5. A trailer is a field line that could not stand in the head instead: nothing that routes, frames or authorises.
6. A size line with its extensions, one trailer and their number are limited.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

from sandhold.wire.fields import TOKEN, MalformedHeadError, parse_fields

SIZE_LINE_BYTES_MAX: Final = 512  # 16 digits and some extensions; nobody is known to read them
TRAILER_BYTES_MAX: Final = 4096  # signatures and checksums are the longest known
TRAILERS_MAX: Final = 20

_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:;" + TOKEN + rb"(?:=(?:" + TOKEN + rb'|"(?:[\t !#-\[\]-~]|\\[\t -~])*"))?)*'
)
_NO_TRAILER: Final = frozenset(  # RFC 9110 section 6.5.1
    {
        b"authorization",
        b"cache-control",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"expect",
        b"forwarded",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"location",
        b"max-forwards",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"range",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"www-authenticate",
        b"x-forwarded-for",
        b"x-forwarded-host",
    }
)


class MalformedBodyError(ValueError):
    """A chunked body that another program could read differently; `str()` says why, and never repeats the bytes."""


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    DONE = auto()


class ChunkedReader:
    """Follows one chunked body.

    The caller keeps the bytes that were not consumed and feeds them again with more behind them; consumed bytes were
    judged and may be forwarded as they are. A line is consumed as a whole, data as it comes.
    """

    def __init__(self) -> None:
        self._state = _State.SIZE
        self._data_left = 0
        self._trailers = 0

    def feed(self, data: bytes) -> tuple[int, bool]:
        """Return how many bytes of `data` belong to the body so far, and whether it ended with them.

        Raises:
            MalformedBodyError: when the body is refused; the reader is of no use afterwards.
        """
        position = 0
        while (after := self._step(data, position)) is not None:
            position = after
        return position, self._state is _State.DONE

    def _step(self, data: bytes, position: int) -> int | None:
        """Take one line or one run of data; None when there is not enough of it, or nothing left to take."""
        match self._state:
            case _State.SIZE:
                return self._take_size(data, position)
            case _State.DATA:
                return self._take_data(data, position)
            case _State.DATA_END:
                return self._take_data_end(data, position)
            case _State.TRAILER:
                return self._take_trailer(data, position)
            case _State.DONE:
                return None

    def _take_size(self, data: bytes, position: int) -> int | None:
        line = _line(data, position, SIZE_LINE_BYTES_MAX)
        if line is None:
            return None
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise MalformedBodyError("not a chunk size")
        self._data_left = int(match[1], 16)
        if self._data_left >= 2**63:
            raise MalformedBodyError("a chunk size that some readers cannot hold")
        self._state = _State.DATA if self._data_left else _State.TRAILER
        return position + len(line) + 2

    def _take_data(self, data: bytes, position: int) -> int | None:
        taken = min(self._data_left, len(data) - position)
        self._data_left -= taken
        if self._data_left == 0:
            self._state = _State.DATA_END
        return position + taken if taken else None

    def _take_data_end(self, data: bytes, position: int) -> int | None:
        ending = data[position : position + 2]
        if not b"\r\n".startswith(ending):
            raise MalformedBodyError("a chunk is longer than its size")
        if len(ending) < 2:
            return None
        self._state = _State.SIZE
        return position + 2

    def _take_trailer(self, data: bytes, position: int) -> int | None:
        line = _line(data, position, TRAILER_BYTES_MAX)
        if line is None:
            return None
        if not line:
            self._state = _State.DONE
            return position + 2
        self._trailers += 1
        if self._trailers > TRAILERS_MAX:
            raise MalformedBodyError("too many trailers")
        try:
            ((name, _),) = parse_fields([line])
        except MalformedHeadError:
            raise MalformedBodyError("a trailer is not `name: value`") from None
        if name.lower() in _NO_TRAILER:
            raise MalformedBodyError("a trailer that may only stand in the head")
        return position + len(line) + 2


def _line(data: bytes, position: int, bytes_max: int) -> bytes | None:
    """The line at `position` without its CR LF, by rules 1 and 6; None while it is incomplete."""
    window = data[position : position + bytes_max + 2]
    ending = window.find(b"\n")
    carriage_return = window.find(b"\r")
    if ending >= 0:
        if ending == 0 or carriage_return != ending - 1:
            raise MalformedBodyError("CR or LF alone in a chunk line")
        return window[: ending - 1]
    if 0 <= carriage_return < len(window) - 1:
        raise MalformedBodyError("CR or LF alone in a chunk line")
    if len(window) == bytes_max + 2:
        raise MalformedBodyError("a chunk line is too long")
    return None
