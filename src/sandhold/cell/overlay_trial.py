"""The program that tries whether this user can mount an overlay as a cell does; nothing of it outlives it."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

from sandhold.linux.mounts import NODEV, attach_at, make_private, new_filesystem
from sandhold.linux.syscalls import CLONE_NEWNS, CLONE_NEWUSER, die_with_parent, unshare
from sandhold.linux.users import write_single_id_map

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORKBENCH = "/tmp"  # noqa: S108  # covered by an empty file system of our own in a mount namespace of our own


def main(fds: Sequence[int]) -> None:
    """Send `mounted`, or why not, over the packet socket `fds[0]`."""
    with socket.socket(fileno=fds[0]) as link:
        try:
            _mount()
        except OSError as error:
            link.send((error.strerror or str(error))[:1000].encode())
        else:
            link.send(b"mounted")


def _mount() -> None:
    die_with_parent(signal.SIGKILL)
    is_root = os.geteuid() == 0
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWNS if is_root else CLONE_NEWNS | CLONE_NEWUSER)
    if not is_root:
        write_single_id_map(os.getpid(), 0, uid, gid)
    make_private()
    attach_at(new_filesystem("tmpfs", {"mode": "0755"}, NODEV), _WORKBENCH)
    for name in ("upper", "work"):
        os.mkdir(f"{_WORKBENCH}/{name}")  # noqa: PTH102
    options: dict[str, str | None] = {
        "lowerdir": "/usr",
        "upperdir": f"{_WORKBENCH}/upper",
        "workdir": f"{_WORKBENCH}/work",
    }
    if not is_root:
        options["userxattr"] = None
    os.close(new_filesystem("overlay", options, NODEV))
