"""Waits for a connection's first bytes to say what it is, under a size and a time limit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from sandhold.egress.stream import READ_BYTES
from sandhold.model.decision import Reason
from sandhold.wire.opening import MalformedOpening, Opening, read_opening

if TYPE_CHECKING:
    from sandhold.egress.reactor import Reactor
    from sandhold.egress.stream import Stream

OPENING_BYTES_MAX: Final = 128 * 1024  # twice the longest head or ClientHello that `wire` reads, with its framing
OPENING_TIMEOUT_S: Final = 10.0  # from the connection to its whole opening; a lost packet costs 1 to 3 s
SILENCE_S: Final = 0.3  # who speaks first has spoken by then; longer delays every protocol where the server does


class Missing(Enum):
    """Why there is no opening."""

    SILENT = auto()
    """Not one byte came in time."""
    LATE = auto()
    """Some came, not all in time."""
    ENDED = auto()
    """The client left."""


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
    buffer = b""
    try:
        while len(buffer) < OPENING_BYTES_MAX:
            data = await stream.read(READ_BYTES, deadline)
            if not data:
                return Missing.ENDED
            if not buffer:
                deadline = reactor.clock() + patience.whole_s
            buffer += data
            opening = read_opening(buffer)
            if isinstance(opening, Opening):
                return opening
    except TimeoutError:
        return Missing.LATE if buffer else Missing.SILENT
    finally:
        stream.unread(buffer)
    return MalformedOpening("the first bytes are too many", Reason.OPENING_TOO_LARGE)
