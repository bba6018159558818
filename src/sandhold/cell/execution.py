"""The last steps of a command's process, in whichever kind of cell: descriptors, signals, groups, and the program."""

# ruff: noqa: PTH123  # system calls on a tree where pathlib has no words for links and descriptors

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import stat
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AGENT_ID: Final = 1000
GROUP_FILE_BYTES_MAX: Final = 256 << 10  # the sandbox may have written it
GROUPS_MAX: Final = 256
_OOM_SCORE: Final = b"300"  # the kernel takes a command before process 1
_HIGH: Final = 64  # above every descriptor a command is given


@dataclass(frozen=True, slots=True)
class Order:
    """A command as the session asked for it."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str
    is_root: bool
    has_terminal: bool


def order_from(raw: Mapping[str, Any], *, has_terminal: bool) -> Order:
    """Return the order that a session wrote as JSON."""
    return Order(tuple(raw["argv"]), raw["environment"], raw["folder"], raw["is_root"], has_terminal)


def take_streams(streams: Sequence[int], report: int, *, has_terminal: bool) -> int:
    """Put the streams on 0, 1, 2 and on, and close everything else but the report; returns its new descriptor, which
    closes at exec."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH) for fd in streams]
    kept = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=True)
    if has_terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.closerange(len(streams), kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    return kept


def reset_process() -> None:
    """Give back what Python and process 1 changed; ignored signals would stay ignored in the program."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):  # the C library keeps two for itself
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb") as file:
        file.write(_OOM_SCORE)


def groups_of_agent() -> list[int]:
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


def execute(order: Order) -> None:
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
