"""The host's end of one command's streams: pipes of whoever asked, or a terminal made for them.

A terminal stands twice: the user's, made here and raw, whose bytes pass unchanged both ways, and the one inside, which
does what terminals do. Its size is carried over: whoever has the user's end sets it, and a process of ours whose
controlling terminal it is hears of it (`SIGWINCH`, tty_ioctl(4)).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import termios
import tty
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from sandhold.cell.machine.frames import PAYLOAD_BYTES_MAX, WINDOW_BYTES, Frame, Kind, pack
from sandhold.linux.process import fork
from sandhold.linux.syscalls import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES: Final = 3  # the number under which the news of a terminal's size is waited for, beside the streams 0, 1, 2
_SIZE: Final = struct.Struct("=HHHH")  # struct winsize


class BrokenRulesError(ValueError):
    """The guest said what it cannot say."""


class Streams:
    """One command's streams. `waiting` is what each of them waits for: descriptor and events of poll(2).

    Methods that move bytes return the frames that the guest must get for it.
    """

    def __init__(self, number: int, ends: dict[int, int], *, watcher: int | None = None) -> None:
        self.number = number
        self.master: int | None = None
        self.is_started = False
        self.is_told = False
        self.status: int | None = None
        self.detail: str | None = None
        self.waiting: dict[int, tuple[int, int]] = {}
        self._ends = ends
        self._watcher = watcher
        self._room = WINDOW_BYTES
        self._outputs = {stream for stream in ends if stream in (1, 2)}
        self._ended: set[int] = set()
        self._given_up: set[int] = set()
        self._pending: dict[int, deque[bytes]] = {stream: deque() for stream in self._outputs}
        for fd in ends.values():
            os.set_blocking(fd, False)
        if watcher is not None:
            self.waiting[SIZES] = (ends[SIZES], select.POLLIN)

    @classmethod
    def of(cls, number: int, fds: Sequence[int]) -> Self:
        """Take over three descriptors: standard input, output and error."""
        return cls(number, dict(enumerate(fds)))

    @classmethod
    def at_terminal(cls, number: int, order: dict[str, Any]) -> Self:
        """Make a terminal; `master` is its user's end, which goes to the session."""
        master, slave = os.openpty()
        tty.setraw(slave)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, _SIZE.pack(order["rows"], order["columns"], 0, 0))
        sizes, watcher = _watch(slave)
        streams = cls(number, {0: slave, 1: os.dup(slave), SIZES: sizes}, watcher=watcher)
        streams.master = master
        return streams

    @property
    def may_be_told(self) -> bool:
        """Whether it has ended, everything it wrote before has arrived, and nobody has been told yet."""
        return self.status is not None and not self.is_told and not any(self._pending.values())

    @property
    def is_over(self) -> bool:
        """Whether nothing can come any more."""
        return self.is_told and (self._outputs <= self._ended or not self.is_started)

    def move(self, stream: int) -> bytes:
        """Move what can be moved on a stream, without waiting."""
        if stream == SIZES:
            return self._new_size()
        if stream not in self._ends:
            return b""
        return self._read_input() if stream == 0 else self._write_output(stream)

    def take_output(self, stream: int, data: bytes) -> bytes:
        """Take what the guest sends on an output; nothing is its end. With stream 0 it takes no more input.

        Raises:
            BrokenRulesError: when that stream has ended, never was, or has more under way than its window.
        """
        if not self.is_started or (data and stream == 0):
            raise BrokenRulesError("output of a command that has none")
        if stream == 0:
            self._close(0)
            return b""
        if stream not in self._outputs or stream in self._ended:
            raise BrokenRulesError("output on a stream that has ended")
        if not data:
            self._ended.add(stream)
            return self._write_output(stream)
        if stream in self._given_up:
            return b""
        pending = self._pending[stream]
        pending.append(data)
        if sum(map(len, pending)) > WINDOW_BYTES:
            raise BrokenRulesError("more output than it may send")
        return self._write_output(stream)

    def take_room(self, payload: bytes) -> bytes:
        """Learn how much of the input the command has taken.

        Raises:
            BrokenRulesError: when that is more than it was given.
        """
        taken = int.from_bytes(payload, "little")
        if len(payload) != 4 or taken > WINDOW_BYTES - self._room:
            raise BrokenRulesError("it took more input than there was")
        self._room += taken
        return self.move(0)

    def end(self, status: bytes, detail: str | None) -> None:
        """Learn that the command ended.

        Raises:
            BrokenRulesError: when it had.
        """
        if self.status is not None or len(status) != 1:
            raise BrokenRulesError("a command ended twice")
        self.status, self.detail = status[0], detail

    def close(self) -> None:
        """Close everything."""
        for stream in list(self._ends):
            self._close(stream)
        if self._watcher is not None:
            os.kill(self._watcher, signal.SIGKILL)
            os.waitpid(self._watcher, 0)
            self._watcher = None

    def _read_input(self) -> bytes:
        if not self.is_started:
            return b""
        frames = b""
        while self._room > 0:
            try:
                data = os.read(self._ends[0], min(PAYLOAD_BYTES_MAX, self._room))
            except BlockingIOError:
                self.waiting[0] = (self._ends[0], select.POLLIN)
                return frames
            except OSError:
                data = b""  # EIO: nobody has the user's end any more (pty(7))
            if not data:
                self._close(0)
                return frames + self._end_of_input()
            self._room -= len(data)
            frames += pack(Frame(Kind.INPUT, self.number, data))
        self.waiting.pop(0, None)
        return frames

    def _end_of_input(self) -> bytes:
        """A pipe ends; a terminal hangs up."""
        if self._watcher is None:
            return pack(Frame(Kind.INPUT, self.number))
        return b"".join(pack(Frame(Kind.CLOSE, self.number, stream=stream)) for stream in (0, 1))

    def _write_output(self, stream: int) -> bytes:
        if stream not in self._ends:
            return b""
        fd, pending = self._ends[stream], self._pending[stream]
        taken = 0
        try:
            while pending:
                written = os.write(fd, pending[0])
                taken += written
                pending[0] = pending[0][written:]
                if not pending[0]:
                    pending.popleft()
        except BlockingIOError:
            self.waiting[stream] = (fd, select.POLLOUT)
        except OSError:
            pending.clear()
            self._given_up.add(stream)
            self._close(stream)
            return pack(Frame(Kind.CLOSE, self.number, stream=stream)) if stream not in self._ended else b""
        if not pending:
            self.waiting.pop(stream, None)
            if stream in self._ended:
                self._close(stream)
        return pack(Frame(Kind.TAKEN_DOWN, self.number, struct.pack("<I", taken), stream)) if taken else b""

    def _new_size(self) -> bytes:
        if not os.read(self._ends[SIZES], 64):
            self._close(SIZES)
            return b""
        if 0 not in self._ends:
            return b""
        with contextlib.suppress(OSError):
            rows, columns, _, _ = _SIZE.unpack(fcntl.ioctl(self._ends[0], termios.TIOCGWINSZ, bytes(_SIZE.size)))
            return pack(Frame(Kind.RESIZE, self.number, struct.pack("<HH", rows, columns)))
        return b""

    def _close(self, stream: int) -> None:
        self.waiting.pop(stream, None)
        fd = self._ends.pop(stream, None)
        if fd is not None:
            os.close(fd)


def _watch(slave: int) -> tuple[int, int]:
    """Return a descriptor on which a byte comes for each change of the terminal's size, and who writes it."""
    news, write = os.pipe2(os.O_CLOEXEC)
    pid = fork()
    if pid == 0:
        _become_watcher(slave, write)
    os.close(write)
    return news, pid


def _become_watcher(slave: int, news: int) -> NoReturn:
    """Have the terminal as our own and say when it changes; the first word covers what changed before that."""
    try:
        die_with_parent(signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH, signal.SIGHUP})
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for fd in range(3):
            os.close(fd)
        os.closerange(3, news)
        os.closerange(news + 1, os.sysconf("SC_OPEN_MAX"))
        os.write(news, b"!")
        while signal.sigwait({signal.SIGWINCH, signal.SIGHUP}) == signal.SIGWINCH:
            os.write(news, b"!")
    finally:
        os._exit(0)
