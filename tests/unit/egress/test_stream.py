"""A socket as awaited reads and writes."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from sandhold.egress.reactor import Reactor
from sandhold.egress.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LONG_S = 20.0


def run(main: Callable[[Reactor, Stream, socket.socket], Awaitable[None]]) -> None:
    """Run with a stream and the other end of its socket."""
    reactor = Reactor()
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname(), timeout=LONG_S) as theirs:
        ours, _ = listener.accept()

        async def body() -> None:
            stream = Stream(reactor, ours)
            try:
                await main(reactor, stream, theirs)
            finally:
                stream.close()

        reactor.run(body())


def test_what_was_pushed_back_is_read_first() -> None:
    """Bytes that were looked at are read again, before newer ones, in pieces of any size."""

    async def main(reactor: Reactor, stream: Stream, theirs: socket.socket) -> None:
        deadline = reactor.clock() + LONG_S
        theirs.sendall(b"abcdef")
        stream.unread(await stream.read_exactly(6, deadline))
        theirs.sendall(b"gh")
        stream.skip(1)
        assert stream.early == b"bcdef"
        assert await stream.read(2, deadline) == b"bc"
        assert await stream.read_exactly(5, deadline) == b"defgh"

    run(main)


def test_an_end_is_empty_and_too_few_bytes_are_an_error() -> None:
    """`read` says the end with nothing; `read_exactly` raises when it comes too early."""

    async def main(reactor: Reactor, stream: Stream, theirs: socket.socket) -> None:
        deadline = reactor.clock() + LONG_S
        theirs.sendall(b"ab")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            await stream.read_exactly(3, deadline)
        assert await stream.read(1, deadline) == b""

    run(main)


def test_a_write_waits_for_a_slow_reader_and_no_longer_than_its_deadline() -> None:
    """A reader that takes nothing ends the write at the deadline; one that reads gets everything."""

    async def main(reactor: Reactor, stream: Stream, theirs: socket.socket) -> None:
        data = b"x" * 20_000_000
        with pytest.raises(TimeoutError):
            await stream.write(data, reactor.clock() + 0.05)
        theirs.settimeout(0)
        other = Stream(reactor, theirs)
        got = 0

        async def reader() -> None:
            nonlocal got
            while chunk := await other.read(1_000_000, reactor.clock() + LONG_S):
                got += len(chunk)

        task = reactor.spawn(reader(), "reader")
        await stream.write(b"y" * 5_000_000, reactor.clock() + LONG_S)
        stream.end_writing()
        await task.join(reactor.clock() + LONG_S)
        assert got > 5_000_000

    run(main)


def test_a_reset_is_seen_as_one() -> None:
    """`reset` is never taken for a regular end; it may be called again."""

    async def main(reactor: Reactor, stream: Stream, theirs: socket.socket) -> None:
        stream.reset()
        stream.reset()
        stream.close()
        assert stream.fileno() == -1
        with pytest.raises(ConnectionResetError):
            theirs.recv(1)
        with pytest.raises(OSError, match="Bad file descriptor"):
            await stream.read(1, reactor.clock() + LONG_S)

    run(main)


def test_last_words_arrive_whole_and_the_end_behind_them() -> None:
    """What is written with the end arrives complete, however much it is, and the end comes right behind it."""

    async def main(reactor: Reactor, stream: Stream, theirs: socket.socket) -> None:
        words = b"x" * (8 << 20)  # more than the sockets hold
        received: list[bytes] = []

        def read_all() -> None:
            while data := theirs.recv(1 << 16):
                received.append(data)

        reader = threading.Thread(target=read_all)
        reader.start()
        await stream.end_with(words, reactor.clock() + LONG_S)
        reader.join(LONG_S)
        assert not reader.is_alive()
        assert b"".join(received) == words

    run(main)


def test_last_words_end_though_there_are_none() -> None:
    """The end alone is said too."""

    async def main(reactor: Reactor, stream: Stream, theirs: socket.socket) -> None:
        await stream.end_with(b"", reactor.clock() + LONG_S)
        assert theirs.recv(1) == b""

    run(main)


def test_writing_at_once_waits_for_nobody() -> None:
    """What there is room for is written, and how much that was is said; without room it is nothing, not a wait."""

    async def main(_: Reactor, stream: Stream, theirs: socket.socket) -> None:
        assert stream.write_now(b"abc") == 3
        assert theirs.recv(16) == b"abc"
        while stream.write_now(b"x" * (1 << 16)):
            pass
        stream.close()
        with pytest.raises(OSError, match="descriptor"):
            stream.write_now(b"x")

    run(main)


def test_room_for_a_burst_is_made_and_one_byte_still_wakes() -> None:
    """The kernel may take in as much as was asked for at once, and says so of each byte as before."""

    async def main(reactor: Reactor, stream: Stream, theirs: socket.socket) -> None:
        burst = 1024 * 1024
        assert stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < burst
        stream.make_room(burst)
        assert stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= burst
        assert stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
        theirs.sendall(b"a")
        await reactor.readable(stream.fileno(), reactor.clock() + LONG_S)
        assert await stream.read(2, reactor.clock() + LONG_S) == b"a"

    run(main)
