"""Being told that something appeared in a folder, once. inotify(7).

A watch ends with its first event: whoever is told looks for itself, and watches again when it wants to hear more. What
goes on meanwhile costs nothing, however much it is.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import Final, Self

from sandhold.linux.syscalls import checked

READ_BYTES: Final = 1 << 16
_IN_MOVED_TO: Final = 0x80  # sys/inotify.h
_IN_CREATE: Final = 0x100
_IN_ONLYDIR: Final = 0x01000000
_IN_DONT_FOLLOW: Final = 0x02000000
_IN_ONESHOT: Final = 0x80000000
_APPEARED: Final = _IN_CREATE | _IN_MOVED_TO | _IN_ONLYDIR | _IN_DONT_FOLLOW | _IN_ONESHOT

_libc = ctypes.CDLL(None, use_errno=True)


class Appearances:
    """Watches on folders; readable when something appeared in one of them."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def open(cls) -> Self:
        """Make one without watches.

        Raises:
            OSError: when this user has too many already.
        """
        flags = os.O_NONBLOCK | os.O_CLOEXEC
        return cls(checked(int(_libc.inotify_init1(ctypes.c_int(flags))), "inotify_init1"))

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._fd

    def watch(self, folder: str) -> None:
        """Watch a folder until something is made in it or moved into it; again after that, or twice, is no matter.

        Raises:
            OSError: when it is none, or this user has too many watches.
        """
        path = os.fsencode(folder)
        checked(
            int(_libc.inotify_add_watch(ctypes.c_int(self._fd), path, ctypes.c_uint32(_APPEARED))),
            "inotify_add_watch",
            folder,
        )

    def told(self) -> bool:
        """Whether something has appeared since the last call."""
        is_told = False
        with suppress(BlockingIOError):
            while os.read(self._fd, READ_BYTES):
                is_told = True
        return is_told

    def close(self) -> None:
        """End every watch."""
        os.close(self._fd)
