"""The few pipes of the process, through which bytes are spliced (splice(2)); they are lent for a burst."""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from typing import Final

PIPE_BYTES: Final = 1024 * 1024  # /proc/sys/fs/pipe-max-size: what one user may ask for
PIPES_MAX: Final = 4  # fs.pipe-user-pages-soft is 64 MiB a user: room for sixteen sandboxes


@dataclass(frozen=True, slots=True)
class Pipe:
    """A pipe through which one burst goes."""

    source: int
    sink: int


class PipePool:
    """The few pipes of the process; they are lent for a burst."""

    def __init__(self, limit: int = PIPES_MAX) -> None:
        self._idle: list[Pipe] = []
        self._count = 0
        self._limit = limit

    def borrow(self) -> Pipe | None:
        """Lend a pipe, or None: then copy."""
        if self._idle:
            return self._idle.pop()
        if self._count >= self._limit:
            return None
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return None
        self._count += 1
        with contextlib.suppress(OSError):  # EPERM: the user's share of pipe memory is used up; a small pipe works too
            fcntl.fcntl(pipe.sink, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return pipe

    def give_back(self, pipe: Pipe, *, is_empty: bool) -> None:
        """Take a pipe back; one that still holds bytes of a broken connection is thrown away with them."""
        if is_empty:
            self._idle.append(pipe)
        else:
            self._count -= 1
            _close(pipe)

    def close(self) -> None:
        """Close the idle pipes."""
        while self._idle:
            _close(self._idle.pop())


def _close(pipe: Pipe) -> None:
    os.close(pipe.source)
    os.close(pipe.sink)
