"""Puts mounts over files and folders of a running cell again, after something on the host took the old ones away.

When a file is replaced on the host (a rename over it), the kernel takes away what was mounted over it in every mount
namespace. Nothing inside can mount, process 1 neither: a process of the host enters the mount namespace for that.

Rules:

1. From the moment it enters, its root is the cell's: nothing is imported, nothing is started, and every path is opened
   without following a link.
2. What is covered is the very file or folder that was seen on the host, or it is left alone.
3. A guard that is still there is left alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Final

from sandhold.linux.mounts import RDONLY, attach, clone_tree, set_attributes
from sandhold.linux.syscalls import (
    AT_FDCWD,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
    setns,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandhold.cell.plan import Folder

_PLAINLY: Final = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


def cover_again(namespaces: Sequence[int], guards: Sequence[tuple[Folder, bool]]) -> int:
    """Enter a cell's mount namespace for good (`namespaces`: it, and the user namespace it belongs to unless that is
    the host's own) and cover by the rules above; each guard with whether it is read-only, those above before those
    below. Returns how many were covered again.

    Raises:
        OSError: when the namespace cannot be entered.
    """
    facts = os.open("/proc/self/fdinfo", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts, *owner = namespaces
    if owner:
        setns(owner[0], CLONE_NEWUSER)
    sys.path.clear()
    sys.meta_path.clear()
    setns(mounts, CLONE_NEWNS)
    covered = 0
    for folder, is_read_only in guards:
        with contextlib.suppress(OSError):  # it is gone or another by now: whoever looks next sees what is there
            covered += _cover(facts, folder, is_read_only=is_read_only)
    return covered


def _cover(facts: int, folder: Folder, *, is_read_only: bool) -> bool:
    above = _open(os.path.dirname(folder.path), os.O_DIRECTORY)  # noqa: PTH120  rule 1
    try:
        place = _open(folder.path, 0 if folder.is_file else os.O_DIRECTORY)
        try:
            status = os.fstat(place)
            is_same = (status.st_dev, status.st_ino) == (folder.device, folder.inode)
            if not is_same or _mount_number(facts, place) != _mount_number(facts, above):
                return False
            tree = clone_tree(place)
            try:
                set_attributes(tree, RDONLY if is_read_only else 0)
                attach(tree, place)
            finally:
                os.close(tree)
        finally:
            os.close(place)
    finally:
        os.close(above)
    return True


def _open(path: str, flags: int) -> int:
    return openat2(AT_FDCWD, path, os.O_PATH | flags, _PLAINLY)


def _mount_number(facts: int, fd: int) -> bytes:
    """Return the number of the mount that an open file lies on, as text. proc_pid_fdinfo(5)."""
    lines = os.open(str(fd), os.O_RDONLY | os.O_CLOEXEC, dir_fd=facts)
    try:
        for line in os.read(lines, 4096).split(b"\n"):
            if line.startswith(b"mnt_id:"):
                return line
    finally:
        os.close(lines)
    raise OSError("fdinfo names no mount")
