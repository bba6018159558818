"""Waits for a connection's first bytes to say what it is, under the size limit of `wire` and a time limit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from sandhold.wire.opening import NEED_MORE, Opening, OpeningReader

if TYPE_CHECKING:
    from sandhold.egress.reactor import Reactor
    from sandhold.egress.stream import Stream

READ_BYTES: Final = 4096  # of an opening: most have a tenth of it; what a read sets aside lies between what stays
OPENING_TIMEOUT_S: Final = 10.0  # from the connection to its whole opening; a lost packet costs 1 to 3 s
SILENCE_S: Final = 0.3  # who speaks first has spoken by then; longer delays every protocol where the server does


class Missing(Enum):
    """Why there is no opening."""

    SILENT = auto()
    """Not one byte came in time."""
    LATE = auto()
    """Some came, not all in time."""
    ENDED = auto()
    """The client ended its direction without a byte."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds: for the first byte, and from then on for the opening to be whole."""

    first_byte_s: float
    whole_s: float


async def read_first_bytes(reactor: Reactor, stream: Stream, patience: Patience) -> Opening | Missing:
    """Read until the bytes say what they are; they stay in the stream, to be read again.

    Raises:
        OSError: when the connection breaks.
    """
    deadline = reactor.clock() + patience.first_byte_s
    reader = OpeningReader()
    is_silent = True
    try:
        while True:
            data = await stream.read(READ_BYTES, deadline)
            if not data:
                return Missing.ENDED if is_silent else reader.end()
            if is_silent:
                deadline = reactor.clock() + patience.whole_s
                is_silent = False
            opening = reader.feed(data)
            if opening is not NEED_MORE:
                return opening
    except TimeoutError:
        return Missing.SILENT if is_silent else Missing.LATE
    finally:
        stream.unread(reader.buffer)
