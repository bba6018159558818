"""Waiting for a lock of the kernel with an end to the wait.

`flock` (flock(2)) belongs to an open file description: the kernel lets go of it when the last descriptor is closed, so
a killed holder never leaves it behind.
"""

from __future__ import annotations

import fcntl
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_WAIT_S: Final = 10.0  # a holder writes and syncs once; a disk that takes longer than this is not working
_PAUSE_FIRST_S: Final = 0.0002  # less than one `fdatasync`, which is what a holder does
_PAUSE_MAX_S: Final = 0.01


@contextmanager
def locked(fd: int, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the exclusive lock of an open file for the length of a `with`.

    The kernel has no `flock` with a deadline and a signal would not reach a thread, so the wait asks again and again;
    it is the sum of the pauses that is bounded, and no clock is read.

    Raises:
        TimeoutError: when somebody else held the lock for `wait_s` seconds.
    """
    waited_s, pause_s = 0.0, _PAUSE_FIRST_S
    while not _try_lock(fd):
        if waited_s >= wait_s:
            raise TimeoutError(f"another process held the lock for {wait_s:g} seconds")
        time.sleep(pause_s)
        waited_s += pause_s
        pause_s = min(pause_s * 2, _PAUSE_MAX_S)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
