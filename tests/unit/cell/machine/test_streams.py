"""The host's end of a command's streams, with a guest that keeps the rules and one that does not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import termios
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.machine.frames import PAYLOAD_BYTES_MAX, WINDOW_BYTES, Frame, FrameReader, Kind
from sandhold.cell.machine.streams import SIZES, BrokenRulesError, Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT_S = 30.0


class Pipes:
    """Streams on three pipes, and the user's ends of them."""

    def __init__(self) -> None:
        stdin, self.input = os.pipe()
        self.output, stdout = os.pipe()
        self.error, stderr = os.pipe()
        self.streams = Streams(1, {0: stdin, 1: stdout, 2: stderr})
        self.streams.is_started = True

    def close(self) -> None:
        """Close what is open."""
        self.streams.close()
        for fd in (self.input, self.output, self.error):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    """Streams of a command that has started."""
    made = Pipes()
    yield made
    made.close()


def frames(data: bytes) -> list[Frame]:
    """Return what the guest would get."""
    return FrameReader().feed(data)


def test_a_guest_that_sends_beyond_its_window_breaks_the_rules(pipes: Pipes) -> None:
    """Output that nobody reads is kept up to the window and not a byte beyond."""
    parts = 2 * WINDOW_BYTES // PAYLOAD_BYTES_MAX
    with pytest.raises(BrokenRulesError):
        send_parts(pipes.streams, parts)


def send_parts(streams: Streams, count: int) -> None:
    """Send output that nobody reads."""
    for _ in range(count):
        streams.take_output(1, bytes(PAYLOAD_BYTES_MAX))


def end(streams: Streams, *statuses: bytes) -> None:
    """End the command as often as there are statuses."""
    for status in statuses:
        streams.end(status, None)


BREACHES: dict[str, Callable[[Streams], object]] = {
    "output on the input": lambda streams: streams.take_output(0, b"x"),
    "output on a stream that there is not": lambda streams: streams.take_output(3, b"x"),
    "more input taken than was given": lambda streams: streams.take_room(struct.pack("<I", 1)),
    "taken without a number": lambda streams: streams.take_room(b""),
    "a status of no byte": lambda streams: end(streams, b""),
    "a status of two bytes": lambda streams: end(streams, b"\0\0"),
    "two ends of one stream": lambda streams: [streams.take_output(1, b"") for _ in range(2)],
    "output after the end of its stream": lambda streams: [streams.take_output(1, data) for data in (b"", b"x")],
    "two ends of the command": lambda streams: end(streams, b"\0", b"\0"),
}


@pytest.mark.parametrize("breach", BREACHES.values(), ids=BREACHES)
def test_what_no_agent_says_is_refused(pipes: Pipes, breach: Callable[[Streams], object]) -> None:
    """A guest that says the impossible is told apart from one that is slow."""
    with pytest.raises(BrokenRulesError):
        breach(pipes.streams)


def test_output_before_the_start_is_refused(pipes: Pipes) -> None:
    """A command that has not started has no output."""
    pipes.streams.is_started = False
    with pytest.raises(BrokenRulesError):
        pipes.streams.take_output(1, b"x")


def test_output_reaches_its_pipe_and_makes_room(pipes: Pipes) -> None:
    """What was written out is told to the guest, byte for byte."""
    (frame,) = frames(pipes.streams.take_output(2, b"hello"))
    assert (frame.kind, frame.stream, frame.payload) == (Kind.TAKEN_DOWN, 2, struct.pack("<I", 5))
    assert os.read(pipes.error, 100) == b"hello"


def test_input_stops_at_the_window(pipes: Pipes) -> None:
    """No more input is on its way than the guest has room for; room that it makes lets more go."""
    os.set_blocking(pipes.input, False)
    sent = 0
    for _ in range(40):
        with contextlib.suppress(BlockingIOError):
            os.write(pipes.input, bytes(32768))
        sent += sum(len(frame.payload) for frame in frames(pipes.streams.move(0)))
    assert sent == WINDOW_BYTES
    more = frames(pipes.streams.take_room(struct.pack("<I", 1000)))
    assert sum(len(frame.payload) for frame in more) == 1000


def test_the_end_of_input_is_passed_on(pipes: Pipes) -> None:
    """A pipe that is closed on the user's side ends the command's input, after its last bytes."""
    os.write(pipes.input, b"last")
    os.close(pipes.input)
    pipes.input = -1
    assert [frame.payload for frame in frames(pipes.streams.move(0))] == [b"last", b""]


def test_a_reader_that_left_is_told_to_the_guest(pipes: Pipes) -> None:
    """Nobody reads any more: the guest closes its end, as the kernel would tell the program with SIGPIPE."""
    os.close(pipes.output)
    pipes.output = -1
    (frame,) = frames(pipes.streams.take_output(1, b"x"))
    assert (frame.kind, frame.stream) == (Kind.CLOSE, 1)
    assert pipes.streams.take_output(1, b"still on its way") == b""


def test_an_end_is_told_after_all_output(pipes: Pipes) -> None:
    """The exit status waits until what was written before it has been read."""
    os.set_blocking(pipes.output, False)
    while not pipes.streams.waiting.get(1):
        pipes.streams.take_output(1, bytes(PAYLOAD_BYTES_MAX))
    pipes.streams.end(b"\3", None)
    assert not pipes.streams.may_be_told
    while not pipes.streams.may_be_told:
        os.read(pipes.output, 65536)
        pipes.streams.move(1)
    assert pipes.streams.status == 3


def test_a_terminal_passes_bytes_and_its_size() -> None:
    """The user's end is raw, and each size that is set there reaches the guest."""
    streams = Streams.at_terminal(1, {"rows": 24, "columns": 80})
    assert streams.master is not None
    try:
        streams.is_started = True
        streams.take_output(1, b"a\nb")
        assert os.read(streams.master, 100) == b"a\nb"
        os.write(streams.master, b"\x03\r")
        assert [frame.payload for frame in frames(streams.move(0))] == [b"\x03\r"]
        await_news(streams)
        streams.move(SIZES)
        fcntl.ioctl(streams.master, termios.TIOCSWINSZ, struct.pack("=HHHH", 50, 132, 0, 0))
        await_news(streams)
        (frame,) = frames(streams.move(SIZES))
        assert (frame.kind, struct.unpack("<HH", frame.payload)) == (Kind.RESIZE, (50, 132))
    finally:
        os.close(streams.master)
        streams.close()


def test_a_terminal_that_nobody_has_hangs_up() -> None:
    """When the last user's end is closed, the guest closes both directions of its own terminal."""
    streams = Streams.at_terminal(1, {"rows": 24, "columns": 80})
    assert streams.master is not None
    streams.is_started = True
    await_news(streams)
    os.close(streams.master)
    assert {(frame.kind, frame.stream) for frame in frames(streams.move(0))} == {(Kind.CLOSE, 0), (Kind.CLOSE, 1)}
    streams.close()


def await_news(streams: Streams) -> None:
    """Wait until there is news of the terminal's size."""
    ready, _, _ = select.select([streams.waiting[SIZES][0]], [], [], WAIT_S)
    assert ready
