"""How process 1 turns into a command: descriptors, terminal, filter, capabilities, user, and then the program.

Each step gives up what the next no longer needs; the order is the one the kernel demands. The filter is loaded while
CAP_SYS_ADMIN of the inner user namespace is still there, because `sudo` forbids `no_new_privs`.
"""

# ruff: noqa: PTH123  # system calls on a tree where pathlib has no words for links and descriptors

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import stat
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from sandhold.linux import seccomp
from sandhold.linux.capabilities import INSTALLING, capset, limit_bounding_set
from sandhold.linux.syscalls import Machine, no_new_privileges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AGENT_ID: Final = 1000
GROUP_FILE_BYTES_MAX: Final = 256 << 10  # the sandbox may have written it
GROUPS_MAX: Final = 256
_OOM_SCORE: Final = b"300"  # the kernel takes a command before process 1


@dataclass(frozen=True, slots=True)
class Order:
    """A command as the session asked for it."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str
    is_root: bool
    has_terminal: bool


def become(order: Order, streams: Sequence[int], report: socket.socket, *, is_single: bool) -> NoReturn:
    """Be the command. Sends the filter's descriptor over `report`, then an error if the program cannot be started.

    `report` closes by itself when the program starts.
    """
    what = order.folder
    try:
        os.setsid()
        _take_streams(streams, report, has_terminal=order.has_terminal)
        _reset_signals()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _be_first_to_go()
        groups = _groups_of_agent() if not order.is_root and not is_single else []
        if is_single:
            no_new_privileges()
        listener = seccomp.load(seccomp.program(Machine.here()))
        socket.send_fds(report, [b"filter"], [listener])
        os.close(listener)
        _step_down(groups, is_root=order.is_root, is_single=is_single)
        os.chdir(order.folder)
        what = order.argv[0]
        _execute(order)
    except OSError as error:
        words = error.strerror or str(error)
        report.send(json.dumps({"errno": error.errno or errno.EIO, "detail": f"{what}: {words}"[:1000]}).encode())
    finally:
        os._exit(127)


def _take_streams(streams: Sequence[int], report: socket.socket, *, has_terminal: bool) -> None:
    """Put the streams on 0, 1 and 2 and close everything else but the report, which closes at exec."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in streams]
    kept = fcntl.fcntl(report.fileno(), fcntl.F_DUPFD_CLOEXEC, 20)
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=True)
    if has_terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.dup2(kept, report.fileno(), inheritable=False)
    os.closerange(3, report.fileno())
    os.closerange(report.fileno() + 1, os.sysconf("SC_OPEN_MAX"))


def _reset_signals() -> None:
    """Give back what Python and process 1 changed; ignored signals would stay ignored in the program."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):  # the C library keeps two for itself
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _be_first_to_go() -> None:
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb") as file:
        file.write(_OOM_SCORE)


def _step_down(groups: Sequence[int], *, is_root: bool, is_single: bool) -> None:
    limit_bounding_set(frozenset() if is_single else INSTALLING)
    if is_single:
        capset(frozenset())
        return
    user = 0 if is_root else AGENT_ID
    os.setgroups(groups)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    capset(INSTALLING if is_root else frozenset())


def _groups_of_agent() -> list[int]:
    """Return the supplementary groups that the root's own `/etc/group` gives to `agent`. group(5).

    The file is the sandbox's; whatever it says, the ids are the cell's own.
    """
    try:
        fd = os.open("/etc/group", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        lines = file.read(GROUP_FILE_BYTES_MAX).split(b"\n")
    found = []
    for line in lines:
        fields = line.split(b":")
        if len(fields) == 4 and fields[2].isdigit() and b"agent" in fields[3].split(b","):
            number = int(fields[2][:6])
            if number < 65536:
                found.append(number)
    return found[:GROUPS_MAX]


def _execute(order: Order) -> None:
    """Replace this process by the program, looked up on the command's own PATH as execvp(3) does."""
    name = order.argv[0]
    if "/" in name:
        os.execve(name, order.argv, order.environment)  # noqa: S606  # there is no shell, on purpose
    refused: OSError | None = None
    for folder in order.environment.get("PATH", "/usr/local/bin:/usr/bin:/bin").split(":"):
        try:
            os.execve(f"{folder or '.'}/{name}", order.argv, order.environment)  # noqa: S606
        except PermissionError as error:
            refused = error
        except (FileNotFoundError, NotADirectoryError):
            continue
    raise refused or FileNotFoundError(errno.ENOENT, "not found on the PATH inside")
