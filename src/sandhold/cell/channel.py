"""The session's end of the channel to process 1. Nothing that comes over it is trusted.

Rules:

1. A packet is one JSON object of at most `MESSAGE_BYTES_MAX` bytes with exactly the fields of one kind of message,
   about a command that was started and has not ended, with exactly the descriptors that kind carries. A terminal comes
   once, and only for a command that wants one: each is a descriptor of the session's.
2. Anything else ends the cell.
"""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from sandhold.cell.spec import (
    AGENT_USER,
    EXTRAS_MAX,
    ROOT_USER,
    CellDied,
    CellEvent,
    CommandId,
    Exited,
    Started,
    TerminalReady,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandhold.cell.spec import Command

MESSAGE_BYTES_MAX: Final = 4096
EVENTS_AT_ONCE_MAX: Final = 256  # so that a flood of packets cannot keep the session from its other work
COMMANDS_MAX: Final = 1024  # at a time; each is a terminal or three streams of the session's
DETAIL_CHARACTERS_MAX: Final = 1000
ORDER_BYTES_MAX: Final = 8 << 20  # what process 1 reads
_PID_MAX: Final = 1 << 22
_SEND_TIMEOUT_S: Final = 10.0  # process 1 reads at once or is stuck


class ProtocolError(ValueError):
    """Process 1 said what it never says."""


class Channel:
    """A packet socket to process 1 and the commands that are under way."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._running: set[CommandId] = set()
        self._wanting_terminal: set[CommandId] = set()
        self._last = 0

    def fileno(self) -> int:
        """Return the socket's descriptor; it is readable when `receive()` has news."""
        return self._link.fileno()

    def close(self) -> None:
        """Close the socket, which ends process 1."""
        self._link.close()

    def start(self, command: Command, streams: tuple[int, int, int] | None, extras: Sequence[int] = ()) -> CommandId:
        """Ask for a command. `extras` are descriptors that it finds as 3 and on; they stay the caller's.

        Raises:
            ValueError: when no such command can be started: an unknown user, a zero byte, too large.
            OSError: when the cell is gone, or too many commands run.
        """
        if command.user not in (AGENT_USER, ROOT_USER):
            raise ValueError(f"no user `{command.user}` inside; there are `{AGENT_USER}` and `{ROOT_USER}`")
        if len(self._running) >= COMMANDS_MAX:
            raise OSError(f"{COMMANDS_MAX} commands are running in this sandbox already")
        assert not extras or (streams is not None and len(extras) <= EXTRAS_MAX), "extras stand beside three streams"
        order = _order(command)
        self._last += 1
        number = CommandId(self._last)
        fd = os.memfd_create("order", os.MFD_CLOEXEC)
        with open(fd, "wb+", buffering=0) as file:  # noqa: PTH123
            file.write(order)
            file.seek(0)
            message = json.dumps({"start": number, "terminal": streams is None}).encode()
            self._link.settimeout(_SEND_TIMEOUT_S)
            socket.send_fds(self._link, [message], [fd, *(streams or ()), *extras])
        self._running.add(number)
        if streams is None:
            self._wanting_terminal.add(number)
        return number

    def signal(self, command: CommandId, signum: int) -> None:
        """Ask for a signal to a command that is under way."""
        if command in self._running:
            self._link.settimeout(_SEND_TIMEOUT_S)
            self._link.send(json.dumps({"signal": command, "number": int(signum)}).encode())

    def stop(self) -> None:
        """Ask a machine to put everything on disk and switch off; process 1 of namespaces needs no asking."""
        self._link.settimeout(_SEND_TIMEOUT_S)
        self._link.send(b'{"stop": true}')

    def receive(self) -> list[CellEvent]:
        """Return what has arrived, without waiting; a breach of the rules or the end comes as `CellDied`, last."""
        events: list[CellEvent] = []
        self._link.setblocking(False)  # noqa: FBT003  # the socket's own interface
        while len(events) < EVENTS_AT_ONCE_MAX:
            try:
                message, fds, flags, _ = socket.recv_fds(self._link, MESSAGE_BYTES_MAX, 4, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                break
            except OSError as error:
                events.append(CellDied(f"its channel failed: {error.strerror}"))
                break
            if not message:
                events.append(CellDied("its first process ended"))
                break
            try:
                events.append(self._read(message, fds, flags))
            except ProtocolError as error:
                events.append(CellDied(f"its first process broke the protocol: {error}"))
                break
        return events

    def _read(self, message: bytes, fds: list[int], flags: int) -> CellEvent:
        """Judge one packet by rule 1; descriptors that no event takes over are closed."""
        is_taken = False
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise ProtocolError("a packet was too large")
            event = self._event(_object(message), fds)
            is_taken = isinstance(event, TerminalReady)
            return event
        finally:
            if not is_taken:
                for fd in fds:
                    os.close(fd)

    def _event(self, said: dict[str, Any], fds: list[int]) -> CellEvent:
        match said:
            case {"started": int(number), "pid": int(pid), **rest} if not rest and not fds and 0 < pid < _PID_MAX:
                return Started(self._known(number), pid)
            case {"terminal": int(number), **rest} if not rest and len(fds) == 1 and os.isatty(fds[0]):
                if self._known(number) not in self._wanting_terminal:
                    raise ProtocolError("a terminal that nobody waits for")
                self._wanting_terminal.discard(CommandId(number))
                return TerminalReady(CommandId(number), fds[0])
            case {"exited": int(number), "status": int(status), "detail": str() | None as detail, **rest} if (
                not rest and not fds and 0 <= status < 256
            ):
                command = self._known(number)
                self._running.discard(command)
                self._wanting_terminal.discard(command)
                return Exited(command, status, detail[:DETAIL_CHARACTERS_MAX] if detail is not None else None)
        raise ProtocolError("a message of no known kind")

    def _known(self, number: int) -> CommandId:
        command = CommandId(number)
        if command not in self._running:
            raise ProtocolError("a message about a command that is not running")
        return command


def _object(message: bytes) -> dict[str, Any]:
    try:
        said = json.loads(message)
    except (ValueError, RecursionError):
        raise ProtocolError("a packet that is no JSON") from None
    if not isinstance(said, dict):
        raise ProtocolError("a packet that is no object")
    return said


def _order(command: Command) -> bytes:
    if not command.argv:
        raise ValueError("a command has at least its own name")
    if any(
        "\0" in text for text in (*command.argv, command.folder, *(part for e in command.environment for part in e))
    ):
        raise ValueError("a command holds no zero byte")
    if any(not name or "=" in name for name, _ in command.environment):
        raise ValueError("a variable's name is not empty and holds no `=`")
    order = {
        "argv": command.argv,
        "environment": dict(command.environment),
        "folder": command.folder,
        "is_root": command.user == ROOT_USER,
        "rows": command.rows,
        "columns": command.columns,
    }
    data = json.dumps(order).encode("ascii")
    if len(data) > ORDER_BYTES_MAX:
        raise ValueError("the command and its environment are larger than the kernel takes")
    return data
