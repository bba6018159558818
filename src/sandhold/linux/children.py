"""Children that end: noticed in a poll without a race, and looked after a few at a time. signal(7), wait(2).

For a process 1, which nothing but its session ends and which inherits every orphan.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

REAPED_AT_ONCE_MAX: Final = 256  # so that a storm of orphans cannot keep process 1 from the session's orders
_NEWS_BYTES_MAX: Final = 512


def wake_on_child() -> int:
    """Return a descriptor that is readable after a child ended. Every other signal is ignored from here on."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    return read


def reap(woken: int) -> list[tuple[int, int]]:
    """Return children that have ended, each with its exit status, negative for the signal that ended it.

    `woken` is what `wake_on_child` returned. Where there may be more children it is readable again at once.
    """
    with contextlib.suppress(BlockingIOError):
        while os.read(woken, _NEWS_BYTES_MAX):
            pass
    found: list[tuple[int, int]] = []
    with contextlib.suppress(ChildProcessError):
        while len(found) < REAPED_AT_ONCE_MAX:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return found
            found.append((pid, os.waitstatus_to_exitcode(status)))
        signal.raise_signal(signal.SIGCHLD)
    return found
