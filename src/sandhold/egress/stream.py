"""A connected socket as awaited reads and writes."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sandhold.egress.reactor import Reactor

READ_BYTES: Final = 64 * 1024  # one read of a body or an opening: a good part of a socket buffer, little memory
BURST_READS_MAX: Final = 4  # reads without giving way to other connections
_LINGER_NONE: Final = struct.pack("ii", 1, 0)  # struct linger of <sys/socket.h>: close() sends RST


class Stream:
    """One non-blocking socket. It owns the socket; `close` and `reset` may be called any number of times.

    One task may read while another writes.
    """

    __slots__ = ("_burst", "_early", "_fd", "_reactor", "sock")

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        if sock.gettimeout() != 0:
            sock.settimeout(0)
        self.sock = sock
        self._reactor = reactor
        self._fd = sock.fileno()
        self._early = b""
        self._burst = 0

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._fd

    @property
    def early(self) -> bytes:
        """What was read and pushed back, and not read again yet."""
        return self._early

    def unread(self, data: bytes) -> None:
        """Push bytes back: the next read returns them first."""
        self._early = data + self._early

    def take_early(self) -> bytes:
        """Return what was pushed back; the next read does not."""
        early, self._early = self._early, b""
        return early

    def skip(self, count: int) -> None:
        """Drop bytes that were pushed back."""
        assert count <= len(self._early)
        self._early = self._early[count:]

    def expect_answer(self) -> None:
        """Have the next read wait before it tries: what comes is an answer to what was just written."""
        self._burst = BURST_READS_MAX

    async def read(self, bytes_max: int, deadline: float) -> bytes:
        """Read at least one byte, or `b""` at the end of the stream.

        Raises:
            TimeoutError: at the deadline.
            OSError: when the connection is broken.
        """
        if self._early:
            data, self._early = self._early[:bytes_max], self._early[bytes_max:]
            return data
        if self._burst >= BURST_READS_MAX:
            self._burst = 0
            await self._reactor.readable(self._fd, deadline)
        while True:
            try:
                data = self.sock.recv(bytes_max)
            except BlockingIOError:
                self._burst = 0
                await self._reactor.readable(self._fd, deadline)
            else:
                self._burst += 1
                return data

    async def read_exactly(self, count: int, deadline: float) -> bytes:
        """Read exactly so many bytes.

        Raises:
            EOFError: when the stream ends before.
            TimeoutError: at the deadline.
            OSError: when the connection is broken.
        """
        parts: list[bytes] = []
        missing = count
        while missing:
            data = await self.read(missing, deadline)
            if not data:
                raise EOFError(f"the stream ended {missing} bytes early")
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    async def write(self, data: bytes | memoryview, deadline: float) -> None:
        """Write everything.

        Raises:
            TimeoutError: at the deadline; some bytes may have been written.
            OSError: when the connection is broken.
        """
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                await self._reactor.writable(self._fd, deadline)

    async def end_with(self, data: bytes, deadline: float) -> None:
        """Write everything, then say that nothing more will be, in as few packets as it takes: send(2), MSG_MORE.

        Raises:
            TimeoutError: at the deadline; some bytes may have been written.
            OSError: when the connection is broken.
        """
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.sock.send(rest, socket.MSG_MORE) :]
            except BlockingIOError:
                await self._reactor.writable(self._fd, deadline)
        self.end_writing()

    def write_now(self, data: bytes) -> int:
        """Write what there is room for, without waiting; returns how many bytes that were.

        Raises:
            OSError: when the connection is broken.
        """
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    def acknowledge_at_once(self) -> None:
        """Acknowledge what comes next without the kernel's usual delay of 40 ms: tcp(7), TCP_QUICKACK.

        For a peer that must speak twice before we have anything to say, and by Nagle's algorithm waits in between.
        """
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        except OSError:
            return  # not TCP, or gone already

    def make_room(self, bytes_max: int) -> None:
        """Have the kernel take in as much at once, without waiting until its own measure has grown that far.

        It does so for whoever waits for that much (socket(7), SO_RCVLOWAT), and keeps the room when nobody does any
        more; unlike with SO_RCVBUF, its measure goes on growing with a far end that is far away.
        """
        for wanted in (bytes_max, 1):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)

    def end_writing(self) -> None:
        """Say that nothing more will be written (FIN); a connection that is gone already is no error."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        """Close in order: what was written is still delivered."""
        if self._fd >= 0:
            self._reactor.forget(self._fd)
            self._fd = -1
            self.sock.close()

    def reset(self) -> None:
        """Close at once with RST: the other side sees a reset, never a regular end."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # the peer is gone; closing is all that is left to do
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
            self.close()
