"""A session's log: what went wrong on the host's side, and never more of it than is kept.

Rules:

1. The session and its egress write into one file, each as its standard error. Whoever finds it full puts it aside, in
   the place of the one that was put aside before, and begins another: there are two at most, with the newest words.
2. Whoever finds another file in its place goes on in that one: nobody writes for long where nobody looks.
3. What cannot be written is lost. The log holds up nobody: what must not be lost is in the trail.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

LOG_NAME: Final = "session.log"
LOG_BYTES_MAX: Final = 1 << 20  # hundreds of crashes with all that is told of one
STANDARD_ERROR: Final = 2


def kept(folder: Path) -> tuple[Path, ...]:
    """Return the files of the log in a sandbox's folder that are there, the older one first."""
    path = folder / LOG_NAME
    return tuple(each for each in (_aside(path), path) if each.exists())


def open_log(folder: Path) -> int:
    """Return a descriptor of the log in a sandbox's folder, which is made if it is not there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / LOG_NAME
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        _put_aside(path)
    return _open(path)


class SessionLog:
    """The log as a process of the session writes it: as much of a text file as Python wants of its standard error."""

    def __init__(self, folder: Path, descriptor: int = STANDARD_ERROR) -> None:
        self._path = folder / LOG_NAME
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        """Write by rules 1 to 3."""
        with contextlib.suppress(OSError):
            self._make_room()
            os.write(self._descriptor, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Do nothing: what was written is in the file."""

    def _make_room(self) -> None:
        ours = os.fstat(self._descriptor)
        try:
            is_in_place = os.path.samestat(self._path.lstat(), ours)
        except FileNotFoundError:
            is_in_place = False
        if is_in_place and ours.st_size < LOG_BYTES_MAX:
            return
        if is_in_place:
            _put_aside(self._path)
        log = _open(self._path)
        try:
            os.dup2(log, self._descriptor)
        finally:
            os.close(log)


def _put_aside(path: Path) -> None:
    path.replace(_aside(path))


def _aside(path: Path) -> Path:
    return path.with_suffix(".log.1")


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
