"""The session's end of a machine's port: a process between the session and the guest agent, which it trusts in nothing.

To the session it speaks what process 1 of a namespaces cell speaks (`cell/inside/first_process.py`), so the session
does not know the difference. The bytes of a command's streams go through here; its terminal is made here.

Rules:

1. What the guest says is one of `frames.FROM_GUEST`, about a command that was started and has not been forgotten,
   of the right size and at a time when it can be said. Anything else ends the machine.
2. Nobody keeps more than `WINDOW_BYTES` of a stream for the other side; a guest that sends more breaks rule 1.
3. This process has the descriptors that it was given and the rights of a user that owns nothing.
"""

# ruff: noqa: PTH123  # system calls where pathlib has no words for descriptors

from __future__ import annotations

import array  # noqa: F401  # `socket.send_fds` imports it at its first call, when files may be out of reach
import contextlib
import json
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Final

from sandhold.cell.machine.confinement import confine
from sandhold.cell.machine.frames import (
    FROM_GUEST,
    PLAN_BYTES_MAX,
    Frame,
    FrameError,
    FrameReader,
    Kind,
    in_parts,
    pack,
)
from sandhold.cell.machine.streams import BrokenRulesError, Streams
from sandhold.cell.spec import EXTRAS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

MESSAGE_BYTES_MAX: Final = 4096
ORDER_BYTES_MAX: Final = 8 << 20
COMMANDS_MAX: Final = 2048  # those that run, and those that ended and left something behind that holds a stream
READ_BYTES_MAX: Final = 128 << 10  # at once from the port: a few frames, so that the other descriptors get their turn
OUTGOING_BYTES_MAX: Final = 64 << 20  # towards a guest that has stopped reading; the plan is the largest thing it gets
CONSOLE_BYTES_MAX: Final = 8 << 10  # the last of what the guest's kernel said
WORDS_BYTES_MAX: Final = 2000
NOTE_CHARACTERS_MAX: Final = 200  # of what a guest had to mend; a line at a terminal or two
_PID_MAX: Final = 1 << 22


def main(fds: Sequence[int]) -> None:
    """Run with the channel, the port, the console, the plan, and a file for last words.

    Messages are those of `first_process.serve`; in addition, in: first `{"parent": pid, "user": id or null, "waits":
    bool}`, the user to become and whether the guest waits already, and `{"stop": true}`; out: `{"ready": true, "note":
    text}` once the guest can start commands, with what it had to mend or nothing, or `{"failed": text}`.
    """
    channel, port, console = (socket.socket(fileno=fd) for fd in fds[:3])
    plan, words = fds[3:]
    begin = json.loads(channel.recv(MESSAGE_BYTES_MAX))
    if not confine(begin["user"], begin["parent"]):
        return
    with open(plan, "rb") as file:
        data = file.read(PLAN_BYTES_MAX)
    link = Link(channel, port, console, data)
    if begin["waits"]:
        link.send_plan()
    reason = link.run()
    os.pwrite(words, reason.encode("utf-8", "replace")[:WORDS_BYTES_MAX], 0)


class Link:
    """One machine's port and all that goes over it."""

    def __init__(self, channel: socket.socket, port: socket.socket, console: socket.socket, plan: bytes) -> None:
        self._channel = channel
        self._port = port
        self._console = console
        self._console_tail = b""
        self._reader = FrameReader()
        self._outgoing = bytearray()
        self._commands: dict[int, Streams] = {}
        self._waited: dict[int, tuple[Streams, int]] = {}
        self._poll = select.poll()
        self._plan: bytes | None = plan
        self._is_ready = False

    def send_plan(self) -> None:
        """Give the guest, which waits for it, its plan and the time.

        Raises:
            BrokenRulesError: when it has had them.
        """
        if self._plan is None:
            raise BrokenRulesError("it waits for a second plan")
        now = struct.pack("<Q", time.time_ns())
        self._outgoing += in_parts(Kind.PLAN, 0, self._plan) + pack(Frame(Kind.BEGIN, 0, now))
        self._plan = None

    def run(self) -> str:
        """Carry messages until one side ends; returns why."""
        for one in (self._port, self._console):
            one.setblocking(False)  # noqa: FBT003  # the socket's own interface
            self._poll.register(one, select.POLLIN)
        self._poll.register(self._channel, select.POLLIN)
        try:
            while True:
                self._poll.register(self._port, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
                for fd, _ in self._poll.poll():
                    if not self._serve(fd):
                        return "the session let go of it"
        except (FrameError, BrokenRulesError) as error:
            return f"the guest broke its protocol: {error}"
        except EOFError as error:
            return str(error)

    def _serve(self, fd: int) -> bool:
        if fd == self._channel.fileno():
            return self._obey()
        if fd == self._port.fileno():
            self._flush()
            self._read_port()
        elif fd == self._console.fileno():
            self._read_console()
        elif fd in self._waited:
            streams, stream = self._waited[fd]
            self._after(streams, streams.move(stream))
        return True

    def _read_port(self) -> None:
        try:
            data = self._port.recv(READ_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._read_console()
            raise EOFError(self._last_words())
        for frame in self._reader.feed(data):
            self._judge(frame)

    def _read_console(self) -> None:
        try:
            data = self._console.recv(READ_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            with contextlib.suppress(KeyError):  # when the port ends after it, it is read a last time
                self._poll.unregister(self._console)
        self._console_tail = (self._console_tail + data)[-CONSOLE_BYTES_MAX:]

    def _last_words(self) -> str:
        """Return why a machine ended, as far as its console tells: a stranger's words, made printable and short."""
        lines = [printable(line) for line in self._console_tail.decode("utf-8", "replace").splitlines()]
        telling = [line for line in lines if "Kernel panic" in line or "sbx:" in line]
        said = telling[-1:] or [line for line in lines if line][-1:]
        return f"the machine ended ({said[0][:300]})" if said else "the machine ended"

    def _judge(self, frame: Frame) -> None:
        """Rule 1."""
        if frame.kind not in FROM_GUEST:
            raise BrokenRulesError("a frame that only the session sends")
        if frame.kind is Kind.FAILED:
            words = printable(frame.payload.decode("utf-8", "replace"))[:WORDS_BYTES_MAX]
            if not self._is_ready:
                self._say({"failed": words})
            raise EOFError(f"the guest gave up: {words}")
        if frame.kind is Kind.WAITING:
            self.send_plan()
            return
        if frame.kind is Kind.READY or not self._is_ready:
            if frame.kind is not Kind.READY or self._is_ready or self._plan is not None:
                raise BrokenRulesError("it was ready twice, or not yet")
            self._is_ready = True
            note = printable(frame.payload.decode("utf-8", "replace"))[:NOTE_CHARACTERS_MAX]
            self._say({"ready": True, "note": note})
            return
        streams = self._commands.get(frame.command)
        if streams is None:
            raise BrokenRulesError("a frame about a command that is not there")
        self._judge_for(streams, frame)

    def _judge_for(self, streams: Streams, frame: Frame) -> None:
        match frame.kind:
            case Kind.STARTED:
                pid = int.from_bytes(frame.payload, "little")
                if streams.is_started or len(frame.payload) != 4 or not 0 < pid < _PID_MAX:
                    raise BrokenRulesError("it started a command that had started")
                streams.is_started = True
                self._say({"started": streams.number, "pid": pid})
                self._after(streams, streams.move(0))
            case Kind.OUTPUT:
                self._after(streams, streams.take_output(frame.stream, frame.payload))
            case Kind.TAKEN_UP:
                self._after(streams, streams.take_room(frame.payload))
            case Kind.EXITED:
                detail = printable(frame.payload[1:].decode("utf-8", "replace")) or None
                streams.end(frame.payload[:1], detail)
                self._after(streams, b"")

    def _after(self, streams: Streams, answer: bytes) -> None:
        """Send what moving bytes asks for, wait for what holds them up, and tell the session of an end."""
        self._send(answer)
        for waiting, stream in list(self._waited.values()):
            if waiting is streams and stream not in streams.waiting:
                self._forget(streams, stream)
        for stream, (descriptor, events) in streams.waiting.items():
            self._waited[descriptor] = (streams, stream)
            self._poll.register(descriptor, events)
        if streams.may_be_told:
            streams.is_told = True
            self._say({"exited": streams.number, "status": streams.status, "detail": streams.detail})
        if streams.is_over:
            del self._commands[streams.number]
            for stream in list(streams.waiting):
                self._forget(streams, stream)
            streams.close()

    def _forget(self, streams: Streams, stream: int) -> None:
        for fd in [fd for fd, waiting in self._waited.items() if waiting == (streams, stream)]:
            del self._waited[fd]
            with contextlib.suppress(KeyError):
                self._poll.unregister(fd)

    def _obey(self) -> bool:
        try:
            message, fds, _, _ = socket.recv_fds(
                self._channel, MESSAGE_BYTES_MAX, 4 + EXTRAS_MAX, socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            return False  # it went without reading the last that was said to it
        if not message:
            return False
        said = json.loads(message)
        if "start" in said:
            self._start(said["start"], fds, has_terminal=said["terminal"])
        elif "signal" in said and said["signal"] in self._commands:
            self._send(pack(Frame(Kind.SIGNAL, said["signal"], bytes([said["number"] & 0x7F]))))
        elif "stop" in said:
            self._send(pack(Frame(Kind.STOP, 0)))
        return True

    def _start(self, number: int, fds: list[int], *, has_terminal: bool) -> None:
        with open(fds[0], "rb") as file:
            order = file.read(ORDER_BYTES_MAX)
        if len(self._commands) >= COMMANDS_MAX:
            for fd in fds[1:]:
                os.close(fd)
            self._say({"exited": number, "status": 126, "detail": "too many commands left something behind"})
            return
        streams = Streams.at_terminal(number, json.loads(order)) if has_terminal else Streams.of(number, fds[1:4])
        self._commands[number] = streams
        if streams.master is not None:
            self._say({"terminal": number}, [streams.master])
            os.close(streams.master)
        self._send(in_parts(Kind.ORDER, number, order) + pack(Frame(Kind.START, number, bytes([has_terminal]))))
        self._after(streams, b"")

    def _say(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._channel, [json.dumps(message).encode("ascii")], list(fds))
        except OSError:
            raise EOFError("the session is gone") from None

    def _send(self, data: bytes) -> None:
        if data:
            self._outgoing += data
            if len(self._outgoing) > OUTGOING_BYTES_MAX:
                raise BrokenRulesError("it has stopped reading")
            self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._outgoing:
                try:
                    del self._outgoing[: self._port.send(self._outgoing[:READ_BYTES_MAX])]
                except (BrokenPipeError, ConnectionError):
                    self._outgoing.clear()  # what it said last can still be read


def printable(text: str) -> str:
    """Return a stranger's text as one line in which nothing moves a cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()
