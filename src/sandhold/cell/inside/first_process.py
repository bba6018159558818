"""Process 1 of a cell: starts commands for the session, reaps what is orphaned, and ends when the session is gone.

It holds no secret: all it knows came from the session for the commands to see, and nothing inside can look into it.
"""

# ruff: noqa: PTH123  # system calls on a tree where pathlib has no words for links and descriptors

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import termios
from typing import TYPE_CHECKING, Any, Final

from sandhold.cell.execution import AGENT_ID, Order, order_from
from sandhold.cell.inside.command_inside import become
from sandhold.cell.inside.mode_changes import ModeChanges
from sandhold.cell.spec import EXTRAS_MAX
from sandhold.linux.children import reap, wake_on_child
from sandhold.linux.process import fork

if TYPE_CHECKING:
    from sandhold.cell.inside.root_inside import Root

MESSAGE_BYTES_MAX: Final = 4096
ORDER_BYTES_MAX: Final = 8 << 20  # the kernel's own limit for arguments and environment is 6 MiB
STARTING_TIMEOUT_S: Final = 20.0  # from fork to exec; a program on a dead network file system would hang process 1
_DESCRIPTORS: Final = 4 + EXTRAS_MAX  # the order, three streams and what a command is given beside them
_TTY_GROUP: Final = 5


def serve(channel: socket.socket, root: Root, *, is_single: bool) -> None:
    """Serve the session until its channel closes.

    Messages, one JSON object a packet. In: `{"start": id, "terminal": bool}` with a descriptor of the order and,
    without a terminal, three streams and perhaps more; `{"signal": id, "number": n}`. Out: `{"terminal": id}` with a
    descriptor, `{"started": id, "pid": n}`, `{"exited": id, "status": n, "detail": text or null}`.
    """
    _First(channel, root, is_single=is_single).run()


class _First:
    def __init__(self, channel: socket.socket, root: Root, *, is_single: bool) -> None:
        self._channel = channel
        self._is_single = is_single
        self._pids: dict[int, int] = {}
        self._commands: dict[int, int] = {}
        self._changes = ModeChanges(root.own_mounts)
        self._poll = select.poll()

    def run(self) -> None:
        """Wait for the session, for children and for questions of the filter, in turn."""
        woken = wake_on_child()
        self._poll.register(self._channel, select.POLLIN)
        self._poll.register(woken, select.POLLIN)
        while True:
            for fd, events in self._poll.poll():
                if fd == self._channel.fileno():
                    if not self._obey():
                        return
                elif fd == woken:
                    for pid, code in reap(woken):
                        self._end(pid, code)
                elif events & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                    self._poll.unregister(fd)
                    os.close(fd)
                else:
                    self._changes.ask(fd)

    def _obey(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self._channel, MESSAGE_BYTES_MAX, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not message:
            return False
        try:
            said = json.loads(message)
            if "start" in said:
                self._start(said["start"], fds, has_terminal=said["terminal"])
            elif "signal" in said and said["signal"] in self._pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._pids[said["signal"]], said["number"])
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _start(self, command: int, fds: list[int], *, has_terminal: bool) -> None:
        """Start a command; what goes wrong before the program runs is its exit status 126 or 127, with the reason."""
        try:
            raw = _read_order(fds[0])
            order = order_from(raw, has_terminal=has_terminal)
            if has_terminal:
                master, slave = self._terminal(raw["rows"], raw["columns"], is_root=order.is_root)
                with open(master, "rb", buffering=0), open(slave, "rb", buffering=0):
                    self._send({"terminal": command}, [master])
                    self._fork(command, order, [slave, slave, slave])
            else:
                self._fork(command, order, fds[1:])
        except OSError as error:
            self._send_exit(command, 126, f"{error.strerror or error}")

    def _fork(self, command: int, order: Order, streams: list[int]) -> None:
        report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with report:
            pid = fork()
            if pid == 0:
                become(order, streams, theirs, is_single=self._is_single)
            theirs.close()
            report.settimeout(STARTING_TIMEOUT_S)
            try:
                failure = self._await_program(report)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                failure = {"errno": errno.ETIMEDOUT, "detail": "the program did not start in time"}
        if failure is not None:
            os.waitpid(pid, 0)
            status = 127 if failure["errno"] == errno.ENOENT else 126
            self._send_exit(command, status, failure["detail"])
            return
        self._pids[command] = pid
        self._commands[pid] = command
        self._send({"started": command, "pid": pid})

    def _await_program(self, report: socket.socket) -> dict[str, Any] | None:
        """Take the filter's descriptor, then wait for the program to start (None) or the reason why not."""
        while True:
            message, fds, _, _ = socket.recv_fds(report, MESSAGE_BYTES_MAX, 1, socket.MSG_CMSG_CLOEXEC)
            for fd in fds:
                self._poll.register(fd, select.POLLIN)
            if message == b"filter" and fds:
                continue
            return json.loads(message) if message else None

    def _terminal(self, rows: int, columns: int, *, is_root: bool) -> tuple[int, int]:
        master, slave = os.openpty()
        if not self._is_single:
            os.fchown(slave, 0 if is_root else AGENT_ID, _TTY_GROUP)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("=HHHH", rows, columns, 0, 0))
        return master, slave

    def _end(self, pid: int, code: int) -> None:
        """Note the end of a child, which answers the filter, or is a command or an orphan."""
        if self._changes.answer(pid, code):
            return
        command = self._commands.pop(pid, None)
        if command is not None:
            del self._pids[command]
            self._send_exit(command, code if code >= 0 else 128 - code, None)

    def _send_exit(self, command: int, status: int, detail: str | None) -> None:
        self._send({"exited": command, "status": status, "detail": detail})

    def _send(self, message: dict[str, object], fds: list[int] | None = None) -> None:
        socket.send_fds(self._channel, [json.dumps(message).encode("ascii")], fds or [])


def _read_order(fd: int) -> dict[str, Any]:
    with open(fd, "rb", closefd=False) as file:
        raw: dict[str, Any] = json.loads(file.read(ORDER_BYTES_MAX))
    return raw
