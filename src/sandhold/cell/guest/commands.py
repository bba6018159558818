"""Commands inside a machine: started by the guest agent in the sandbox's root, with pipes or a terminal."""

# ruff: noqa: PTH123  # system calls where pathlib has no words for descriptors

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import struct
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from sandhold.cell.execution import (
    AGENT_ID,
    Order,
    execute,
    groups_of_agent,
    order_from,
    reset_process,
    take_streams,
)
from sandhold.linux.process import fork
from sandhold.linux.syscalls import CLONE_NEWNS, setns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandhold.cell.guest.root import GuestRoot

STARTING_TIMEOUT_S: Final = 60.0  # from fork to exec; an emulated machine that starts twenty at once needs ten
REPORT_BYTES_MAX: Final = 4096
_TTY_GROUP: Final = 5
_TIOCGPTPEER: Final = 0x5441  # ioctl_tty(2): the other end of a terminal, whatever stands at its path
_TIOCSPTLCK: Final = 0x40045431


class NotStartedError(Exception):
    """The program could not be started; `status` is what a shell would say."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(frozen=True, slots=True)
class Running:
    """A command's process and our ends of its streams: number of the stream to descriptor; 0 takes, the others give.

    With a terminal, 0 and 1 are the same thing twice, and there is no 2.
    """

    pid: int
    ends: Mapping[int, int]
    terminal: int | None


def start_command(raw: Mapping[str, Any], root: GuestRoot, *, has_terminal: bool) -> Running:
    """Start what an order asks for, and wait until the program runs.

    Raises:
        NotStartedError: when it cannot be started.
        OSError: when the guest has no descriptors or processes left for it.
    """
    order = order_from(raw, has_terminal=has_terminal)
    terminal = None
    if has_terminal:
        terminal, slave = _terminal(root, raw["rows"], raw["columns"], is_root=order.is_root)
        ends, theirs = {0: terminal, 1: os.dup(terminal)}, [slave]
    else:
        inward, outward, wrong = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
        ends, theirs = {0: inward[1], 1: outward[0], 2: wrong[0]}, [inward[0], outward[1], wrong[1]]
        for fd in theirs:  # a program that opens `/dev/stdout` must be allowed to (pipe(7))
            os.fchown(fd, 0 if order.is_root else AGENT_ID, -1)
    try:
        pid = _start(order, theirs * 3 if has_terminal else theirs, root)
    except (OSError, NotStartedError):
        for fd in ends.values():
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    for fd in ends.values():
        os.set_blocking(fd, False)
    return Running(pid, ends, terminal)


def resize(terminal: int, rows: int, columns: int) -> None:
    """Give a terminal another size; the kernel tells the program."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("=HHHH", rows, columns, 0, 0))


def _start(order: Order, streams: Sequence[int], root: GuestRoot) -> int:
    report, theirs = os.pipe2(os.O_CLOEXEC)
    pid = fork()
    if pid == 0:
        _become(order, streams, theirs, root)
    os.close(theirs)
    with open(report, "rb", buffering=0) as said:
        poll = select.poll()
        poll.register(said, select.POLLIN)
        if not poll.poll(STARTING_TIMEOUT_S * 1000):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise NotStartedError(126, "the program did not start in time")
        words = said.read(REPORT_BYTES_MAX)
    if words:
        os.waitpid(pid, 0)
        failure = json.loads(words)
        raise NotStartedError(127 if failure["errno"] == errno.ENOENT else 126, failure["detail"])
    return pid


def _become(order: Order, streams: Sequence[int], report: int, root: GuestRoot) -> NoReturn:
    """Be the command; what goes wrong before the program runs is said on the report, which closes at exec."""
    what = order.folder
    try:
        os.setsid()
        setns(root.mounts, CLONE_NEWNS)
        os.fchdir(root.folder)
        os.chroot(".")
        report = take_streams(streams, report, has_terminal=order.has_terminal)
        reset_process()
        user = 0 if order.is_root else AGENT_ID
        os.setgroups([] if order.is_root else groups_of_agent())
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        os.chdir(order.folder)
        what = order.argv[0]
        execute(order)
    except OSError as error:
        words = error.strerror or str(error)
        os.write(report, json.dumps({"errno": error.errno or errno.EIO, "detail": f"{what}: {words}"[:1000]}).encode())
    finally:
        os._exit(127)


def _terminal(root: GuestRoot, rows: int, columns: int, *, is_root: bool) -> tuple[int, int]:
    """Return both ends of a terminal of the sandbox's own folder of terminals, whatever root did to the path there."""
    master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=root.terminals)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("=i", 0))
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    os.fchown(slave, 0 if is_root else AGENT_ID, _TTY_GROUP)
    resize(master, rows, columns)
    return master, slave
