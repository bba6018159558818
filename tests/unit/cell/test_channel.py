"""The session's end of the channel, fed by a process 1 that says what it likes."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.channel import EVENTS_AT_ONCE_MAX, Channel
from sandhold.cell.spec import CellDied, Command, CommandId, Exited, Started, TerminalReady

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Command(("true",), (("PATH", "/bin"),), "/")


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    """Make a channel with one command under way, and the socket of its process 1."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(ours)
    channel.start(COMMAND, None)
    _, fds, _, _ = socket.recv_fds(theirs, 4096, 4)
    for fd in fds:
        os.close(fd)
    yield channel, theirs
    channel.close()
    theirs.close()


BREACHES = {
    "not JSON": b"{",
    "not an object": b"[1]",
    "not text": b"\xff\xfe",
    "nested beyond reading": b"[" * 4000,
    "an unknown kind": b'{"hello": 1}',
    "an unknown command": b'{"started": 2, "pid": 5}',
    "a field too many": b'{"started": 1, "pid": 5, "x": 1}',
    "a pid that is none": b'{"started": 1, "pid": 0}',
    "a pid that is text": b'{"started": 1, "pid": "5"}',
    "a status that is none": b'{"exited": 1, "status": 256, "detail": null}',
    "a status without its detail": b'{"exited": 1, "status": 0}',
    "a terminal without a descriptor": b'{"terminal": 1}',
    "a packet too large": b'{"exited": 1, "status": 1, "detail": "' + b"x" * 5000 + b'"}',
}


@pytest.mark.parametrize("packet", BREACHES.values(), ids=BREACHES.keys())
def test_a_breach_ends_the_cell(ends: tuple[Channel, socket.socket], packet: bytes) -> None:
    """A packet outside the protocol is the last that is read."""
    channel, process = ends
    process.send(packet)
    process.send(b'{"exited": 1, "status": 0, "detail": null}')
    (event,) = channel.receive()
    assert isinstance(event, CellDied)


def test_descriptors_nobody_asked_for_are_closed(ends: tuple[Channel, socket.socket]) -> None:
    """A descriptor that is no terminal is not taken over."""
    channel, process = ends
    read, write = os.pipe()
    socket.send_fds(process, [b'{"terminal": 1}'], [write])
    os.close(write)
    (event,) = channel.receive()
    assert isinstance(event, CellDied)
    assert os.read(read, 1) == b""
    os.close(read)


def test_events_come_in_order(ends: tuple[Channel, socket.socket]) -> None:
    """A terminal, a start and an end are what they say, and an ended command is not heard of again."""
    channel, process = ends
    master, slave = os.openpty()
    socket.send_fds(process, [b'{"terminal": 1}'], [master])
    process.send(b'{"started": 1, "pid": 5}')
    process.send(b'{"exited": 1, "status": 3, "detail": "why"}')
    terminal, started, exited = channel.receive()
    assert isinstance(terminal, TerminalReady)
    assert os.isatty(terminal.master)
    assert started == Started(CommandId(1), 5)
    assert exited == Exited(CommandId(1), 3, "why")
    process.send(b'{"exited": 1, "status": 3, "detail": null}')
    (event,) = channel.receive()
    assert isinstance(event, CellDied)
    for fd in (master, slave, terminal.master):
        os.close(fd)


def test_nothing_said_is_no_event(ends: tuple[Channel, socket.socket]) -> None:
    """Without a packet there is an empty list at once; a closed channel is the cell's death."""
    channel, process = ends
    assert channel.receive() == []
    process.close()
    (event,) = channel.receive()
    assert isinstance(event, CellDied)


def test_a_flood_is_read_in_portions(ends: tuple[Channel, socket.socket]) -> None:
    """One call reads so many packets and no more."""
    channel, process = ends
    process.settimeout(0)
    sent = 0
    while sent < EVENTS_AT_ONCE_MAX * 2:
        try:
            process.send(b'{"started": 1, "pid": 5}')
        except BlockingIOError:
            assert len(channel.receive()) <= EVENTS_AT_ONCE_MAX
            continue
        sent += 1
    assert len(channel.receive()) <= EVENTS_AT_ONCE_MAX


REFUSED = {
    "no program": Command((), (), "/"),
    "a zero byte in a word": Command(("a\0b",), (), "/"),
    "a zero byte in a variable": Command(("a",), (("A", "\0"),), "/"),
    "a variable without a name": Command(("a",), (("", "x"),), "/"),
    "a name with an equals sign": Command(("a",), (("A=B", "x"),), "/"),
    "more than the kernel takes": Command(("a", "x" * (9 << 20)), (), "/"),
    "a user who is not there": Command(("a",), (), "/", "nobody"),
}


@pytest.mark.parametrize("command", REFUSED.values(), ids=REFUSED.keys())
def test_a_command_that_cannot_be_is_refused_here(ends: tuple[Channel, socket.socket], command: Command) -> None:
    """A command that cannot be started is never sent."""
    channel, process = ends
    with pytest.raises(ValueError, match=r"command|variable|no user `nobody`"):
        channel.start(command, None)
    process.settimeout(0)
    with pytest.raises(BlockingIOError):
        process.recv(1)


def test_an_order_is_whole(ends: tuple[Channel, socket.socket]) -> None:
    """What process 1 reads is the command, and with streams it gets exactly those."""
    channel, process = ends
    null = os.open(os.devnull, os.O_RDWR)
    command = Command(("sh", "-c", "é\udc80"), (("A", "b"),), "/w", "root", 5, 6)
    assert channel.start(command, (null, null, null)) == 2
    message, fds, _, _ = socket.recv_fds(process, 4096, 8)
    assert json.loads(message) == {"start": 2, "terminal": False}
    assert len(fds) == 4
    order = json.loads(os.pread(fds[0], 4096, 0))
    assert order == {
        "argv": ["sh", "-c", "é\udc80"], "environment": {"A": "b"}, "folder": "/w", "is_root": True, "rows": 5,
        "columns": 6,
    }  # fmt: skip
    for fd in (*fds, null):
        os.close(fd)


def test_a_terminal_comes_once() -> None:
    """A second terminal for a command, or one for a command that wants none, is a breach: each is a descriptor."""
    ours, process = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    master, slave = os.openpty()
    null = os.open(os.devnull, os.O_RDWR)
    wanted = Command(("true",), (), "/")
    channel = Channel(ours)
    taken = []
    try:
        assert (channel.start(wanted, None), channel.start(wanted, (null, null, null))) == (1, 2)
        socket.send_fds(process, [b'{"terminal": 1}'], [master])
        taken = [event.master for event in channel.receive() if isinstance(event, TerminalReady)]
        assert len(taken) == 1
        for number in (1, 2):
            socket.send_fds(process, [b'{"terminal": %d}' % number], [master])
            assert [type(event) for event in channel.receive()] == [CellDied]
    finally:
        channel.close()
        process.close()
        for fd in (master, slave, null, *taken):
            os.close(fd)
