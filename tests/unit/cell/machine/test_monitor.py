"""QEMU's monitor, against one that answers as it should, refuses, talks nonsense, or says nothing."""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.machine.monitor import MESSAGE_BYTES_MAX, Monitor, MonitorError, let_go_on
from sandhold.cell.machine.qemu import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_S = 30.0
GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
DONE = b'{"event": "MIGRATION", "data": {"status": "completed"}}\r\n'
FAILED = b'{"event": "MIGRATION", "data": {"status": "failed"}}\r\n'


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end of a monitor, and QEMU's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(WAIT_S)
        yield ours, theirs


def answering(qemu: socket.socket, heard: list[str], events: dict[str, tuple[bytes, bytes]]) -> threading.Thread:
    """Answer each command with success, and say something before and after the answer to some; `heard` fills."""

    def serve() -> None:
        qemu.sendall(GREETING)
        while True:
            message, fds, _, _ = socket.recv_fds(qemu, 65536, 4)
            for fd in fds:
                os.close(fd)
            if not message:
                return
            heard.append(json.loads(message)["execute"])
            before, after = events.get(heard[-1], (b"", b""))
            qemu.sendall(before + b'{"return": {}}\r\n' + after)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


RESTORED = {
    "before the answer": {"migrate-incoming": (DONE, b"")},
    "after it": {"migrate-incoming": (b"", DONE)},
}


@pytest.mark.parametrize("events", RESTORED.values(), ids=RESTORED)
def test_a_machine_goes_on_once_its_state_was_read(
    pair: tuple[socket.socket, socket.socket], events: dict[str, tuple[bytes, bytes]]
) -> None:
    """The machine is let run only after QEMU said that it has taken everything over, whenever it says so, and nobody
    holds its monitor from then on: QEMU sees the end of it behind the last command."""
    ours, theirs = pair
    heard: list[str] = []
    thread = answering(theirs, heard, events)
    null = os.open(os.devnull, os.O_RDONLY)
    let_go_on(ours, null, WAIT_S)
    os.close(null)
    assert ours.fileno() < 0
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert heard == ["qmp_capabilities", "migrate-set-capabilities", "getfd", "migrate-incoming", "cont"]


def test_a_state_that_does_not_fit_never_runs(pair: tuple[socket.socket, socket.socket]) -> None:
    """A machine whose state QEMU could not take is not let run, and its monitor is closed all the same."""
    ours, theirs = pair
    heard: list[str] = []
    thread = answering(theirs, heard, {"migrate-incoming": (b"", FAILED)})
    null = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(MonitorError, match="could not"):
        let_go_on(ours, null, WAIT_S)
    os.close(null)
    assert ours.fileno() < 0
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert "cont" not in heard


NONSENSE: dict[str, bytes] = {
    "nothing, and an end": b"",
    "no message": b"hello\n",
    "a list": b"[]\n",
    "another greeting": b'{"hello": 1}\n',
    "more than any message": b"x" * (MESSAGE_BYTES_MAX * 3),
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
def test_who_is_no_monitor_is_refused(pair: tuple[socket.socket, socket.socket], said: bytes) -> None:
    """What does not greet as QEMU does is not spoken to."""
    ours, theirs = pair
    theirs.setblocking(False)  # noqa: FBT003  # the socket's own interface
    theirs.send(said)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(MonitorError):
        Monitor(ours, WAIT_S).greet()


def test_a_refusal_is_in_qemus_words(pair: tuple[socket.socket, socket.socket]) -> None:
    """What QEMU refuses is said as QEMU says it."""
    ours, theirs = pair
    theirs.sendall(GREETING + b'{"error": {"class": "GenericError", "desc": "no such thing"}}\r\n')
    with pytest.raises(RefusedError, match="no such thing"):
        Monitor(ours, WAIT_S).greet()


def test_silence_ends(pair: tuple[socket.socket, socket.socket]) -> None:
    """A monitor that says nothing is waited for until the deadline."""
    with pytest.raises(MonitorError):
        Monitor(pair[0], 0.05).greet()
