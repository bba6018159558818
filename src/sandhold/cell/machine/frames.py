"""The frames that the session's side and the guest agent exchange over one serial port of the machine.

Rules:

1. A frame is a header of 12 bytes, little-endian (kind, stream, two zero bytes, command, length), and at most
   `PAYLOAD_BYTES_MAX` bytes of payload. Kind and stream are among those named here.
2. Each stream of each command has a window in each direction: nobody sends more than `WINDOW_BYTES` that the other has
   not said to have taken, so one reader that stands still holds up nothing else, and nobody keeps more than that.
3. A frame that breaks rule 1 is the end: what follows it cannot be told apart any more.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

PAYLOAD_BYTES_MAX: Final = (32 << 10) - 12  # with its header what the guest's driver takes at once; keys wait for it
WINDOW_BYTES: Final = 256 << 10  # of one stream in one direction; the pipe behind it holds a quarter
PLAN_BYTES_MAX: Final = 64 << 20  # as a cell's plan: injected files are a few certificates
COMMAND_MAX: Final = (1 << 31) - 1

_HEADER: Final = struct.Struct("<BBHII")


class Kind(IntEnum):
    """What a frame says. Down to the guest below 16, up from it above."""

    PLAN = 1
    """A part of the plan, for command 0."""
    ORDER = 2
    """A part of a command's order."""
    START = 3
    """The order is complete. Payload: 1 when the command wants a terminal, else 0."""
    INPUT = 4
    """Bytes for a command's standard input; none is its end."""
    SIGNAL = 5
    """Payload: a signal's number, one byte, for the command's process group."""
    RESIZE = 6
    """Payload: rows and columns of the command's terminal, two bytes each."""
    TAKEN_DOWN = 7
    """Payload: how many bytes of an output stream were taken, four bytes."""
    CLOSE = 8
    """Nobody reads this output stream any more."""
    STOP = 9
    """End everything, put it on disk and switch off."""
    BEGIN = 10
    """The plan is complete. Payload: what time it is, in nanoseconds since the epoch, eight bytes."""
    READY = 16
    """Commands can be started. Payload: what had to be mended first, as UTF-8; none when nothing had."""
    STARTED = 17
    """Payload: the process's number inside, four bytes."""
    OUTPUT = 18
    """Bytes of an output stream; none is its end. With stream 0: the command takes no more input."""
    EXITED = 19
    """Payload: exit status, one byte, then why it could not be started, as UTF-8."""
    TAKEN_UP = 20
    """Payload: how many bytes of the input were taken, four bytes."""
    FAILED = 21
    """The guest cannot go on; payload: why, as UTF-8."""
    WAITING = 22
    """The guest waits for its plan, having seen nothing of any sandbox; at most once, before anything else."""


STREAMS: Final = (0, 1, 2)
FROM_GUEST: Final = frozenset(kind for kind in Kind if kind >= Kind.READY)


class FrameError(ValueError):
    """The bytes are no frames."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message about one command; `stream` is 0, 1 or 2 as standard input, output and error are."""

    kind: Kind
    command: int
    payload: bytes = b""
    stream: int = 0


def pack(frame: Frame) -> bytes:
    """Return a frame as bytes."""
    assert len(frame.payload) <= PAYLOAD_BYTES_MAX, "whoever sends more cuts it"
    return _HEADER.pack(frame.kind, frame.stream, 0, frame.command, len(frame.payload)) + frame.payload


def in_parts(kind: Kind, command: int, data: bytes) -> bytes:
    """Return as many frames as the data takes, none for no data."""
    starts = range(0, len(data), PAYLOAD_BYTES_MAX)
    return b"".join(pack(Frame(kind, command, data[start : start + PAYLOAD_BYTES_MAX])) for start in starts)


class FrameReader:
    """Turns bytes as they come into frames by rule 1; keeps less than one frame."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are complete now.

        Raises:
            FrameError: when a header breaks rule 1.
        """
        data = self.rest + data
        frames: list[Frame] = []
        start = 0
        while len(data) - start >= _HEADER.size:
            kind, stream, zero, command, length = _HEADER.unpack_from(data, start)
            if length > PAYLOAD_BYTES_MAX or zero or stream not in STREAMS or command > COMMAND_MAX:
                raise FrameError("a frame that is none")
            end = start + _HEADER.size + length
            known = _kind(kind)
            if end > len(data):
                break
            frames.append(Frame(known, command, data[start + _HEADER.size : end], stream))
            start = end
        self.rest = data[start:]
        return frames


def _kind(number: int) -> Kind:
    try:
        return Kind(number)
    except ValueError:
        raise FrameError(f"a frame of no known kind ({number})") from None
