"""Whether a sandbox runs, asked of the kernel: its session holds a lock for as long as it lives.

The lock is an open-file-description lock (`fcntl(2)`, F_OFD_SETLK), which the kernel takes back however the session
ends, and which can be looked at without being taken. Beside it a marker says what ran; a marker without a lock is a
session that was killed. Where somebody deleted the lock's file, the process that the marker names is asked for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.model.sandbox import Status
from sandhold.session.remains import LOCK_NAME, MARKER_NAME, WORD_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER_BYTES_MAX: Final = 4096
UNKNOWN_SESSION: Final = "unknown"  # of a marker that says nothing; ids of sessions are in capitals
SESSION_MODULE: Final = "sandhold.session.session_program"

_FLOCK = struct.Struct("hhqqi4x")  # struct flock (fcntl(2)); l_pid is 0 for open-file-description locks


@dataclass(frozen=True, slots=True)
class Marker:
    """What a session says of itself: its id, its process, the policy generation it runs on, when it started (seconds
    since the epoch)."""

    session: str
    pid: int
    generation: int
    started_at: float


@dataclass(frozen=True, slots=True)
class Presence:
    """A sandbox's status and, unless it is stopped, the marker of the session that runs or was lost; whether the last
    one left a word of its end (`ends.word_left`)."""

    status: Status
    marker: Marker | None
    has_word: bool = False


STOPPED: Final = Presence(Status.STOPPED, None)


class AlreadyHeldError(Exception):
    """Another session holds the sandbox."""


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the sandbox of this folder.

    Raises:
        AlreadyHeldError: when a session holds it.
    """
    descriptor = os.open(f"{folder}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except (BlockingIOError, PermissionError):
            raise AlreadyHeldError from None
        marker = _read_marker(f"{folder}/{MARKER_NAME}")
        if marker is not None and is_session(marker.pid, folder):
            raise AlreadyHeldError
        yield
    finally:
        os.close(descriptor)


def look(folder: Path | str) -> Presence:
    """Look at the sandbox of this folder without touching it."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  one question for what `sbx ls` asks of each of a thousand
    except FileNotFoundError:
        return STOPPED
    marker = _read_marker(f"{folder}/{MARKER_NAME}") if MARKER_NAME in names else None
    is_held = LOCK_NAME in names and _is_held(f"{folder}/{LOCK_NAME}")
    if is_held or (marker is not None and is_session(marker.pid, Path(folder))):
        return Presence(Status.RUNNING, marker)
    has_word = WORD_NAME in names
    if marker is not None:
        return Presence(Status.LOST, marker, has_word)
    return Presence(Status.STOPPED, None, has_word) if has_word else STOPPED


def write_marker(folder: Path, marker: Marker) -> None:
    """Say what runs; the file is whole or not there, also after a power loss."""
    path, temporary = folder / MARKER_NAME, folder / f"{MARKER_NAME}.new"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(marker), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def remove_marker(folder: Path) -> None:
    """Say that the session ended in order."""
    (folder / MARKER_NAME).unlink(missing_ok=True)


def is_session(pid: int, folder: Path) -> bool:
    """Whether that process is the session of the sandbox of this folder, by its command line (proc(5)).

    The number in an old marker may be another process's by now. The one that asks does not count.
    """
    if pid in (0, os.getpid()):
        return False
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        given = json.loads(words[words.index(SESSION_MODULE.encode()) + 1])
        return bool(Path(given["state"]) / "sandboxes" / given["name"] == folder)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return False


def _is_held(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_ = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, question))
    finally:
        os.close(descriptor)
    return bool(kind != fcntl.F_UNLCK)


def _read_marker(path: str) -> Marker | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            values = json.loads(os.read(descriptor, MARKER_BYTES_MAX))
        finally:
            os.close(descriptor)
        return Marker(
            session=str(values["session"]),
            pid=int(values["pid"]),
            generation=int(values["generation"]),
            started_at=float(values["started_at"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        # Something ran here and left a marker that says nothing: lost all the same.
        return Marker(session=UNKNOWN_SESSION, pid=0, generation=0, started_at=0.0)
