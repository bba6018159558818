"""Carries the body of one HTTP/1 message from one stream to another, byte for byte (RFC 9112 section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sandhold.egress.stream import READ_BYTES
from sandhold.wire.chunked import ChunkedReader, MalformedBodyError
from sandhold.wire.framing import Chunked, Length, NoBody, UntilClose

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.egress.reactor import Reactor
    from sandhold.egress.stream import Stream
    from sandhold.wire.framing import ResponseFraming

CHUNKS_READ_BYTES: Final = 16 * 1024  # in chunks of one byte it takes 6 ms to follow, and others wait meanwhile
BODY_IDLE_S: Final = 600.0  # without a byte in the middle of a message; language models think for minutes


class SourceBrokenError(Exception):
    """The side that sends the body broke off, or fell silent, in the middle of it."""


async def carry_body(
    reactor: Reactor,
    source: Stream,
    sink: Stream,
    framing: ResponseFraming,
    count: Callable[[int], None],
) -> None:
    """Carry one body; what lies behind it stays in the source.

    Raises:
        SourceBrokenError: when the source ends too early.
        MalformedBodyError: when a chunked body is refused; nothing of the refused line was carried.
        OSError: when the sink is broken or takes nothing for too long.
    """
    match framing:
        case NoBody():
            return
        case Length(size):
            await _carry_length(reactor, source, sink, size, count)
        case Chunked():
            await _carry_chunked(reactor, source, sink, count)
        case UntilClose():
            while data := await _read(reactor, source, READ_BYTES):
                await _write(reactor, sink, data, count)


def take_read_body(source: Stream, framing: ResponseFraming) -> tuple[bytes, ResponseFraming]:
    """Take what of a body of known length was read together with its head, to be sent together with it.

    Returns those bytes, and the framing of what is left.
    """
    if not isinstance(framing, Length) or not source.early:
        return b"", framing
    taken = source.early[: framing.size]
    source.skip(len(taken))
    left = framing.size - len(taken)
    return taken, Length(left) if left else NoBody()


async def _carry_length(
    reactor: Reactor, source: Stream, sink: Stream, size: int, count: Callable[[int], None]
) -> None:
    left = size
    while left:
        data = await _read(reactor, source, min(left, READ_BYTES))
        if not data:
            raise SourceBrokenError("the body ended early")
        left -= len(data)
        await _write(reactor, sink, data, count)


async def _carry_chunked(reactor: Reactor, source: Stream, sink: Stream, count: Callable[[int], None]) -> None:
    reader = ChunkedReader()
    rest = b""
    is_done = False
    while not is_done:
        data = await _read(reactor, source, CHUNKS_READ_BYTES)
        if not data:
            raise SourceBrokenError("the body ended early")
        rest += data
        consumed, is_done = reader.feed(rest)
        await _write(reactor, sink, rest[:consumed], count)
        rest = rest[consumed:]
    source.unread(rest)


async def _read(reactor: Reactor, source: Stream, bytes_max: int) -> bytes:
    try:
        return await source.read(bytes_max, reactor.clock() + BODY_IDLE_S)
    except OSError as error:
        raise SourceBrokenError(str(error) or "the body stalled") from error


async def _write(reactor: Reactor, sink: Stream, data: bytes, count: Callable[[int], None]) -> None:
    count(len(data))
    await sink.write(data, reactor.clock() + BODY_IDLE_S)


__all__ = ["BODY_IDLE_S", "MalformedBodyError", "SourceBrokenError", "carry_body", "take_read_body"]
