"""Heads of trails kept outside: one line of text each, in a file that grows or wherever a command takes them.

A line is four words, `TIME TRAIL SEQ sha256:HASH`. Who has one can tell a trail that was cut off, rewritten or put back
to an older state behind it, whatever was done to the files of this program. A `#` begins a comment.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final

from sandhold.store.encoding import timestamp
from sandhold.store.folders import PRIVATE_FILE, sync_folder
from sandhold.store.records import Head

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_BYTES_MAX: Final = 64 << 20  # half a million heads: fifty years of thirty sessions a day

_LINE: Final = re.compile(r"(\S+) +([a-z0-9_][a-z0-9_.-]{0,62}) +([1-9][0-9]{0,17}) +sha256:([0-9a-f]{64})")


class HeadsUnreadableError(ValueError):
    """What should hold heads does not, so nothing can be compared with it."""


def head_text(head: Head) -> str:
    """Write a head as people see it: number and hash."""
    return f"{head.seq} sha256:{head.hash}"


def head_line(trail: str, head: Head, now: float) -> str:
    """Write a head as one line to be kept, with its newline; `now` is in seconds since the epoch."""
    return f"{timestamp(now)} {trail} {head_text(head)}\n"


def append_head(path: Path, line: str) -> None:
    """Put a line at the end of a file, made when it is not there; on disk when this returns.

    Raises:
        OSError: when it is not, or the file is no regular one (a symbolic link is not followed).
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, PRIVATE_FILE)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"`{path}` is no regular file")
        data = line.encode("ascii")
        if os.write(fd, data) != len(data):
            raise OSError(f"the disk of `{path}` is full")
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_folder(path.parent)


def read_heads(path: Path) -> Mapping[str, tuple[Head, ...]]:
    """Read the heads that a file holds, by the names of their trails.

    Raises:
        HeadsUnreadableError: when a line is none, or the file is larger than any that this program wrote.
        OSError: when it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise HeadsUnreadableError(f"it is larger than {FILE_BYTES_MAX} bytes")
    heads: dict[str, list[Head]] = {}
    for number, line in enumerate(data.decode("ascii", "replace").split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise HeadsUnreadableError(f"its line {number} is no head of a trail")
        heads.setdefault(found[2], []).append(Head(int(found[3]), found[4]))
    return {trail: tuple(each) for trail, each in heads.items()}
