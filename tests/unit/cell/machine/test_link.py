"""The session's end of a machine's port, against a guest that says what it likes."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from sandhold.cell.channel import Channel
from sandhold.cell.machine.frames import PAYLOAD_BYTES_MAX, Frame, FrameReader, Kind, pack
from sandhold.cell.machine.link import CONSOLE_BYTES_MAX, Link, printable
from sandhold.cell.spec import Command, Exited, Started, TerminalReady

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT_S = 30.0
COMMAND = Command(("true",), (("PATH", "/bin"),), "/")


class Machine:
    """A link at work, and a guest, a console and a session to talk to it."""

    def __init__(self) -> None:
        session, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        port, self.guest = socket.socketpair()
        console, self.console = socket.socketpair()
        for one in (session, self.guest, self.console):
            one.settimeout(WAIT_S)
        self.session = session
        self.ours = (channel, port, console)
        self.link = Link(*self.ours, b"{}")
        self.reason = ""
        self.reader = FrameReader()
        self.frames: list[Frame] = []
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.reason = self.link.run()
        finally:
            for one in self.ours:
                one.close()

    def say(self, kind: Kind, command: int = 1, payload: bytes = b"", stream: int = 0) -> None:
        """Say something as the guest."""
        self.guest.sendall(pack(Frame(kind, command, payload, stream)))

    def hear(self) -> Frame:
        """Return the next frame that the guest gets."""
        while not self.frames:
            self.frames += self.reader.feed(self.guest.recv(65536))
        return self.frames.pop(0)

    def ended(self) -> str:
        """Wait for the link's end and return its reason."""
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()
        return self.reason


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A machine whose guest is ready."""
    made = Machine()
    made.thread.start()
    made.say(Kind.WAITING, 0)
    assert made.hear() == Frame(Kind.PLAN, 0, b"{}")
    begin = made.hear()
    assert (begin.kind, abs(int.from_bytes(begin.payload, "little") / 1e9 - time.time()) < WAIT_S) == (Kind.BEGIN, True)
    made.say(Kind.READY, 0)
    assert json.loads(made.session.recv(4096)) == {"ready": True, "note": ""}
    yield made
    for one in (made.session, made.guest, made.console):
        one.close()
    made.ended()


def started(machine: Machine, channel: Channel) -> tuple[int, int]:
    """Start a command on two pipes; returns the ends to write its input to and to read its output from."""
    stdin, write = os.pipe()
    read, stdout = os.pipe()
    channel.start(COMMAND, (stdin, stdout, stdout))
    os.close(stdin)
    os.close(stdout)
    order = machine.hear()
    assert (order.kind, json.loads(order.payload)["argv"]) == (Kind.ORDER, ["true"])
    assert machine.hear() == Frame(Kind.START, 1, b"\0")
    return write, read


def events(channel: Channel, count: int) -> list[Any]:
    """Wait for that many events."""
    found: list[Any] = []
    while len(found) < count:
        found += channel.receive()
    return found


BREACHES: dict[str, Callable[[Machine], None]] = {
    "bytes that are no frame": lambda machine: machine.guest.sendall(b"\xff" * 64),
    "a frame that only the session sends": lambda machine: machine.say(Kind.STOP, 0),
    "a wish for a second plan": lambda machine: machine.say(Kind.WAITING, 0),
    "ready twice": lambda machine: machine.say(Kind.READY, 0),
    "output of a command that there is not": lambda machine: machine.say(Kind.OUTPUT, 7, b"x", 1),
    "an end of a command that there is not": lambda machine: machine.say(Kind.EXITED, 7, b"\0"),
    "a start of a command that there is not": lambda machine: machine.say(Kind.STARTED, 7, struct.pack("<I", 5)),
    "a payload of four gigabytes": lambda machine: machine.guest.sendall(
        struct.pack("<BBHII", 18, 1, 0, 1, 1 << 32 - 1)
    ),
}


@pytest.mark.parametrize("breach", BREACHES.values(), ids=BREACHES)
def test_a_guest_that_breaks_the_rules_has_ended(machine: Machine, breach: Callable[[Machine], None]) -> None:
    """What no agent says ends the machine, and the session hears nothing of it but the end."""
    breach(machine)
    assert machine.ended().startswith("the guest broke its protocol")
    assert machine.session.recv(4096) == b""


@pytest.mark.parametrize("pid", [0, 1 << 22, 0xFFFFFFFF])
def test_a_process_number_that_is_none_is_refused(machine: Machine, pid: int) -> None:
    """A process has a number that a process can have."""
    for fd in started(machine, Channel(machine.session)):
        os.close(fd)
    machine.say(Kind.STARTED, 1, struct.pack("<I", pid))
    assert machine.ended().startswith("the guest broke its protocol")


def test_nothing_is_said_before_it_is_ready() -> None:
    """A guest that talks of commands before it is ready breaks the rules."""
    made = Machine()
    made.thread.start()
    made.say(Kind.STARTED, 1, struct.pack("<I", 5))
    assert "not yet" in made.ended()
    for one in (made.session, made.guest, made.console):
        one.close()


def test_a_command_comes_and_goes(machine: Machine) -> None:
    """To the session a machine's command is like any other: started, its bytes both ways, its status."""
    channel = Channel(machine.session)
    write, read = started(machine, channel)
    machine.say(Kind.STARTED, 1, struct.pack("<I", 42))
    os.write(write, b"in")
    assert machine.hear() == Frame(Kind.INPUT, 1, b"in")
    machine.say(Kind.TAKEN_UP, 1, struct.pack("<I", 2))
    machine.say(Kind.OUTPUT, 1, b"out", 1)
    assert os.read(read, 100) == b"out"
    for stream in (1, 2):
        machine.say(Kind.OUTPUT, 1, b"", stream)
    machine.say(Kind.EXITED, 1, b"\7")
    assert events(channel, 2) == [Started(channel_number(1), 42), Exited(channel_number(1), 7)]
    assert os.read(read, 1) == b""
    os.close(write)
    os.close(read)


def channel_number(number: int) -> Any:
    """Return a number as commands have it."""
    return number


def test_a_terminal_is_made_on_this_side(machine: Machine) -> None:
    """The session gets a terminal of the host's own, before the guest has said anything."""
    channel = Channel(machine.session)
    channel.start(COMMAND, None)
    (event,) = events(channel, 1)
    assert isinstance(event, TerminalReady)
    assert os.isatty(event.master)
    os.close(event.master)


def test_why_a_command_did_not_start_is_one_harmless_line(machine: Machine) -> None:
    """A guest's words move no cursor and start no line."""
    channel = Channel(machine.session)
    for fd in started(machine, channel):
        os.close(fd)
    machine.say(Kind.EXITED, 1, b"\x7f" + "no\n\x1b[31msuch\u202eprogram".encode())
    (event,) = events(channel, 1)
    assert isinstance(event, Exited)
    assert (event.status, event.detail) == (127, printable("no\n\x1b[31msuch\u202eprogram"))
    assert event.detail is not None
    assert event.detail.isprintable()


def test_a_console_flood_keeps_its_last_words(machine: Machine) -> None:
    """However much the guest's kernel prints, the last of it is kept, and tells of its end."""
    machine.console.sendall(b"x" * (4 * CONSOLE_BYTES_MAX) + b"\nKernel panic - not syncing: Attempted to kill init!\n")
    machine.guest.close()
    assert "Kernel panic" in machine.ended()


def test_a_console_that_ends_before_the_port_is_remembered(machine: Machine) -> None:
    """A machine whose console goes first has ended when its port does, with its kernel's last words."""
    machine.console.sendall(b"Kernel panic - not syncing: Attempted to kill init!\n")
    machine.console.close()
    for fd in started(machine, Channel(machine.session)):  # it answers, and has seen the console's end before that
        os.close(fd)
    machine.guest.close()
    assert "Kernel panic" in machine.ended()


def test_a_guest_that_gives_up_is_heard() -> None:
    """A guest that cannot start says why, and the session is told."""
    made = Machine()
    made.thread.start()
    made.say(Kind.FAILED, 0, b"OSError: no disk")
    assert json.loads(made.session.recv(4096)) == {"failed": "OSError: no disk"}
    assert "no disk" in made.ended()
    for one in (made.session, made.guest, made.console):
        one.close()


def test_a_guest_that_gives_up_later_has_ended(machine: Machine) -> None:
    """Once it was ready, a guest that gives up is like any that ends: its words are the reason, and no message."""
    machine.say(Kind.FAILED, 0, b"OSError: no more")
    assert machine.ended() == "the guest gave up: OSError: no more"
    assert machine.session.recv(4096) == b""


def test_giant_messages_are_never_collected(machine: Machine) -> None:
    """A header that announces more than a payload can be ends the machine before the rest is waited for."""
    machine.guest.sendall(struct.pack("<BBHII", Kind.OUTPUT, 1, 0, 1, PAYLOAD_BYTES_MAX + 1))
    assert machine.ended().startswith("the guest broke its protocol")
