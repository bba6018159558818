"""The guest agent: process 1 of a machine. Starts commands for the session, carries their bytes, and switches off.

It runs from the read-only image that the template is, in a mount namespace that no command sees, so root inside cannot
break it by what it installs. Nothing depends on that: the session takes what comes from here for a stranger's.

The session's end of the port is `cell/machine/link.py`.
"""

# ruff: noqa: PTH123, PTH208  # system calls where pathlib has no words for descriptors

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandhold.cell.guest.commands import NotStartedError, Running, resize, start_command
from sandhold.cell.guest.network import set_up_network
from sandhold.cell.guest.root import build_guest_root
from sandhold.cell.machine.frames import (
    PAYLOAD_BYTES_MAX,
    PLAN_BYTES_MAX,
    WINDOW_BYTES,
    Frame,
    FrameReader,
    Kind,
    pack,
)
from sandhold.cell.machine.plan import PORT_NAME, GuestPlan, from_bytes
from sandhold.linux.children import reap, wake_on_child

if TYPE_CHECKING:
    from sandhold.cell.guest.root import GuestRoot

ORDER_BYTES_MAX: Final = 8 << 20  # the kernel's own limit for arguments and environment is 6 MiB
PORT_BYTES_MAX: Final = 64 << 10  # read at once
_RESTART: Final = 0x01234567  # reboot(2), LINUX_REBOOT_CMD_RESTART; the machine ends there
_ADD_ENTROPY: Final = 0x40085203  # RNDADDENTROPY, random(4)
_RESEED: Final = 0x5207  # RNDRESEEDCRNG, random(4)


@dataclass(slots=True)
class _Command:
    """A command and what is under way for it: `given` is input that it has not taken yet, `room` how much of each
    output stream may be sent, `drained` which of them had nothing more when the process had ended."""

    number: int
    order: bytearray = field(default_factory=bytearray)
    running: Running | None = None
    ends: dict[int, int] = field(default_factory=dict)
    given: deque[bytes] = field(default_factory=deque)
    input_ends: bool = False
    room: dict[int, int] = field(default_factory=lambda: {1: WINDOW_BYTES, 2: WINDOW_BYTES})
    status: int | None = None
    is_told: bool = False
    drained: set[int] = field(default_factory=set)


def main() -> None:
    """Serve the session over the port until it says stop; whatever goes wrong is said, and the machine ends."""
    port = -1
    try:
        _be_last_to_go()
        port = os.open(f"/dev/{_port()}", os.O_RDWR | os.O_CLOEXEC)
        os.write(port, pack(Frame(Kind.WAITING, 0)))
        plan, now_ns = _read_plan(port)
        _take_time_and_chance(plan, now_ns)
        set_up_network(plan)
        root = build_guest_root(plan)
        os.set_blocking(port, False)
        _Agent(port, root).run()
    except Exception as error:  # noqa: BLE001  # there is nobody above process 1
        if port >= 0:
            os.set_blocking(port, True)
            with contextlib.suppress(OSError):
                os.write(port, pack(Frame(Kind.FAILED, 0, f"{type(error).__name__}: {error}".encode()[:2000])))
    finally:
        _switch_off()


class _Agent:
    def __init__(self, port: int, root: GuestRoot) -> None:
        self._port = port
        self._root = root
        self._reader = FrameReader()
        self._commands: dict[int, _Command] = {}
        self._pids: dict[int, _Command] = {}
        self._outgoing = bytearray()
        self._waited: dict[int, tuple[_Command, int]] = {}
        self._poll = select.poll()
        self._is_stopping = False

    def run(self) -> None:
        """Wait for the session, for children and for the commands' streams, in turn."""
        woken = wake_on_child()
        self._poll.register(woken, select.POLLIN)
        self._send(Kind.READY, 0, self._root.note.encode())
        while not self._is_stopping or self._outgoing:
            self._poll.register(self._port, select.POLLIN | (select.POLLOUT if self._outgoing else 0))
            for fd, events in self._poll.poll():
                if fd == self._port:
                    self._serve_port(events)
                elif fd == woken:
                    for pid, code in reap(woken):
                        self._end(pid, code)
                elif fd in self._waited:
                    self._move(*self._waited[fd])

    def _serve_port(self, events: int) -> None:
        if events & select.POLLHUP:
            raise OSError("the session is gone")
        if events & select.POLLIN:
            with contextlib.suppress(BlockingIOError):
                data = os.read(self._port, PORT_BYTES_MAX)
                if not data:
                    raise OSError("the session is gone")
                for frame in self._reader.feed(data):
                    self._obey(frame)
        self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._outgoing:
                del self._outgoing[: os.write(self._port, self._outgoing[:PORT_BYTES_MAX])]

    def _obey(self, frame: Frame) -> None:
        if frame.kind is Kind.STOP:
            self._is_stopping = True
        elif frame.kind is Kind.ORDER:
            command = self._commands.setdefault(frame.command, _Command(frame.command))
            command.order += frame.payload
            if len(command.order) > ORDER_BYTES_MAX:
                raise OSError("an order is larger than any")
        elif frame.command in self._commands:
            self._obey_for(self._commands[frame.command], frame)

    def _obey_for(self, command: _Command, frame: Frame) -> None:
        match frame.kind:
            case Kind.START:
                self._start(command, has_terminal=frame.payload == b"\1")
            case Kind.INPUT:
                command.given.append(frame.payload)
                command.input_ends = command.input_ends or not frame.payload
                self._move(command, 0)
            case Kind.SIGNAL if command.running is not None and command.status is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(command.running.pid, frame.payload[0])
            case Kind.RESIZE if command.running is not None and command.running.terminal is not None:
                with contextlib.suppress(OSError):
                    resize(command.running.terminal, *struct.unpack("<HH", frame.payload))
            case Kind.TAKEN_DOWN:
                command.room[frame.stream] += struct.unpack("<I", frame.payload)[0]
                self._move(command, frame.stream)
            case Kind.CLOSE if frame.stream in command.ends:
                if frame.stream != 0:
                    self._send(Kind.OUTPUT, command.number, b"", frame.stream)
                self._close(command, frame.stream)
            case _:
                return

    def _start(self, command: _Command, *, has_terminal: bool) -> None:
        try:
            command.running = start_command(json.loads(command.order), self._root, has_terminal=has_terminal)
        except (OSError, NotStartedError) as error:
            status = error.status if isinstance(error, NotStartedError) else 126
            self._send(Kind.EXITED, command.number, bytes([status]) + str(error).encode()[:1000])
            del self._commands[command.number]
            return
        command.order.clear()
        command.ends = dict(command.running.ends)
        self._pids[command.running.pid] = command
        self._send(Kind.STARTED, command.number, struct.pack("<I", command.running.pid))
        for stream in command.ends:
            self._move(command, stream)

    def _move(self, command: _Command, stream: int) -> None:
        """Move what can be moved on one stream, and wait for what holds it up."""
        if stream not in command.ends:
            return
        if stream == 0:
            self._move_down(command)
        else:
            self._move_up(command, stream)
        self._settle(command)

    def _move_down(self, command: _Command) -> None:
        fd = command.ends[0]
        try:
            while command.given and command.given[0]:
                written = os.write(fd, command.given[0])
                command.given[0] = command.given[0][written:]
                if not command.given[0]:
                    command.given.popleft()
                self._send(Kind.TAKEN_UP, command.number, struct.pack("<I", written))
        except BlockingIOError:
            self._wait_for(command, 0, select.POLLOUT)
            return
        except OSError:
            self._send(Kind.OUTPUT, command.number)
            self._close(command, 0)
            return
        if command.given and not command.given[0] and command.running is not None and command.running.terminal is None:
            self._close(command, 0)
        else:
            self._wait_for(command, 0, 0)

    def _move_up(self, command: _Command, stream: int) -> None:
        fd = command.ends[stream]
        while command.room[stream] > 0:
            try:
                data = os.read(fd, min(PAYLOAD_BYTES_MAX, command.room[stream]))
            except BlockingIOError:
                command.drained.add(stream)
                self._wait_for(command, stream, select.POLLIN)
                return
            except OSError:
                data = b""  # EIO: the last process at this terminal is gone (pty(7))
            self._send(Kind.OUTPUT, command.number, data, stream)
            if not data:
                self._close(command, stream)
                return
            command.room[stream] -= len(data)
        self._wait_for(command, stream, 0)

    def _wait_for(self, command: _Command, stream: int, events: int) -> None:
        fd = command.ends[stream]
        if events:
            self._poll.register(fd, events)
            self._waited[fd] = (command, stream)
        elif self._waited.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _close(self, command: _Command, stream: int) -> None:
        if stream in command.ends:
            self._wait_for(command, stream, 0)
            os.close(command.ends.pop(stream))
            self._settle(command)

    def _settle(self, command: _Command) -> None:
        """Tell the end of a command once all it wrote before it has been sent, and forget it with its last stream."""
        if command.status is None:
            return
        outputs = command.ends.keys() - {0}
        if not command.is_told and outputs <= command.drained:
            command.is_told = True
            self._send(Kind.EXITED, command.number, bytes([command.status]))
        if command.is_told and not outputs:
            self._close_all(command)

    def _close_all(self, command: _Command) -> None:
        self._commands.pop(command.number, None)
        for stream in list(command.ends):
            self._close(command, stream)

    def _end(self, pid: int, code: int) -> None:
        """Note the end of a child, which is a command or an orphan."""
        command = self._pids.pop(pid, None)
        if command is not None:
            command.status = code if code >= 0 else 128 - code
            command.drained.clear()
            for stream in [stream for stream in command.ends if stream != 0]:
                self._move(command, stream)
            self._settle(command)

    def _send(self, kind: Kind, command: int, payload: bytes = b"", stream: int = 0) -> None:
        self._outgoing += pack(Frame(kind, command, payload, stream))
        self._flush()


def _read_plan(port: int) -> tuple[GuestPlan, int]:
    """Return the plan and what time it is. A snapshot is taken while this waits: what comes before is in each of them,
    and nothing of a sandbox's may be."""
    reader, data = FrameReader(), bytearray()
    while True:
        part = os.read(port, PORT_BYTES_MAX)
        if not part:
            raise OSError("the session is gone")
        for frame in reader.feed(part):
            if frame.kind is Kind.BEGIN:
                return from_bytes(bytes(data)), int.from_bytes(frame.payload, "little")
            if frame.kind is not Kind.PLAN or len(data) > PLAN_BYTES_MAX:
                raise OSError("the session began with something else than a plan")
            data += frame.payload


def _port() -> str:
    """Return the device of the serial port with our name; its number is the machine's own business."""
    folder = "/sys/class/virtio-ports"
    for name in os.listdir(folder):
        with contextlib.suppress(OSError), open(f"{folder}/{name}/name", "rb") as file:
            if file.read(64).strip() == PORT_NAME.encode("ascii"):
                return name
    raise OSError("the machine has no port for the session")


def _take_time_and_chance(plan: GuestPlan, now_ns: int) -> None:
    """Set the clock, and give the kernel's generator what no other guest has: both may be those of a snapshot. What was
    added is in use only once the generator has been told to start from it."""
    time.clock_settime_ns(time.CLOCK_REALTIME, now_ns)
    seed = bytes.fromhex(plan.seed)
    with open("/dev/urandom", "wb", buffering=0) as generator:
        fcntl.ioctl(generator, _ADD_ENTROPY, struct.pack("=ii", len(seed) * 8, len(seed)) + seed)
        fcntl.ioctl(generator, _RESEED)


def _be_last_to_go() -> None:
    with open("/proc/self/oom_score_adj", "wb") as file:
        file.write(b"-1000")


def _switch_off() -> None:
    """End every process, put everything on disk and end the machine. reboot(2)."""
    with contextlib.suppress(OSError):
        os.kill(-1, signal.SIGKILL)
    os.sync()
    ctypes.CDLL(None).reboot(ctypes.c_int(_RESTART))
