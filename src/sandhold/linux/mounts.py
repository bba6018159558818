"""Mounts by descriptor (calls of Linux 5.2 and 5.12): made detached, given their attributes, then put in place.

A detached mount cannot be seen or changed by anything else before it is attached, and it survives a change of root.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING, Final

from sandhold.linux.syscalls import AT_FDCWD, checked, syscall

if TYPE_CHECKING:
    from collections.abc import Mapping

RDONLY: Final = 0x1
NOSUID: Final = 0x2
NODEV: Final = 0x4
NOEXEC: Final = 0x8
_IDMAP: Final = 0x00100000

_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_MOUNT_SETATTR: Final = 442

_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_FSCONFIG_SET_FLAG: Final = 0
_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_FSMOUNT_CLOEXEC: Final = 1
_FSOPEN_CLOEXEC: Final = 1
_MOVE_FROM_EMPTY_TO_EMPTY: Final = 0x04 | 0x40
_MS_REC_PRIVATE: Final = 0x4000 | (1 << 18)
_LOG_BYTES_MAX: Final = 4096  # one line of a file system context's log

_libc = ctypes.CDLL(None, use_errno=True)


def make_private() -> None:
    """Cut every mount of this namespace off from the host's: nothing propagates either way. mount(2), `MS_PRIVATE`."""
    checked(int(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None)), "mount", "/")


def clone_tree(fd: int) -> int:
    """Return a detached copy of the mount behind an `O_PATH` descriptor, from that file or folder down.

    Mounts below are left out. In a user namespace the kernel refuses that when there are any (what they cover must
    stay covered), and they come along. open_tree(2).
    """
    try:
        return syscall("open_tree", _OPEN_TREE, fd, b"", _AT_EMPTY_PATH | _OPEN_TREE_CLONE | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    flags = _AT_EMPTY_PATH | _AT_RECURSIVE | _OPEN_TREE_CLONE | os.O_CLOEXEC
    return syscall("open_tree", _OPEN_TREE, fd, b"", flags)


def set_attributes(tree: int, attributes: int) -> None:
    """Add attributes to a detached tree and everything below it. mount_setattr(2)."""
    _mount_setattr(tree, struct.pack("=4Q", attributes, 0, 0, 0), _AT_EMPTY_PATH | _AT_RECURSIVE)


def set_own_attributes(mount: int, attributes: int) -> None:
    """Add attributes to one mount only, not to those below it. mount_setattr(2)."""
    _mount_setattr(mount, struct.pack("=4Q", attributes, 0, 0, 0), _AT_EMPTY_PATH)


def map_owners(tree: int, user_namespace: int) -> None:
    """Show the owners of a detached tree through a user namespace's map. mount_setattr(2), `MOUNT_ATTR_IDMAP`.

    An id on disk is read as an id inside that namespace; what it has no line for shows as nobody and cannot be made.
    """
    _mount_setattr(tree, struct.pack("=4Q", _IDMAP, 0, 0, user_namespace), _AT_EMPTY_PATH)


def new_filesystem(kind: str, options: Mapping[str, str | None], attributes: int) -> int:
    """Return a detached mount of a new file system; an option without a value is a flag. fsopen(2), fsmount(2).

    Raises:
        OSError: with the kernel's own sentence when it gives one.
    """
    context = syscall("fsopen", _FSOPEN, kind.encode(), _FSOPEN_CLOEXEC)
    try:
        for key, value in options.items():
            _fsconfig(context, key, value)
        syscall("fsconfig", _FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return syscall("fsmount", _FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        reason = _log_line(context)
        raise OSError(error.errno, f"{error.strerror}: cannot mount {kind}: {reason}") from None
    finally:
        os.close(context)


def attach(tree: int, target: int) -> None:
    """Put a detached tree on the file or folder behind an `O_PATH` descriptor. move_mount(2)."""
    syscall("move_mount", _MOVE_MOUNT, tree, b"", target, b"", _MOVE_FROM_EMPTY_TO_EMPTY)


def attach_at(tree: int, path: str) -> None:
    """Put a detached tree on a path that nobody else can change."""
    syscall("move_mount", _MOVE_MOUNT, tree, b"", AT_FDCWD, os.fsencode(path), 0x04)


def mount_id(fd: int) -> int:
    """Return the number of the mount that an open file or folder lies on. proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as lines:  # noqa: PTH123  # process 1 can import no codec any more
        for line in lines:
            if line.startswith(b"mnt_id:"):
                return int(line.split()[1])
    raise OSError(errno.EINVAL, "fdinfo names no mount")


def _fsconfig(context: int, key: str, value: str | None) -> None:
    if value is None:
        syscall("fsconfig", _FSCONFIG, context, _FSCONFIG_SET_FLAG, key.encode(), None, 0)
    else:
        syscall("fsconfig", _FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), os.fsencode(value) + b"\0", 0)


def _mount_setattr(tree: int, attributes: bytes, flags: int) -> None:
    syscall("mount_setattr", _MOUNT_SETATTR, tree, b"", flags, attributes, len(attributes))


def _log_line(context: int) -> str:
    try:
        return os.read(context, _LOG_BYTES_MAX).decode("utf-8", "replace").strip()
    except OSError:
        return "the kernel gives no reason"
