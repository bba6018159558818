"""Acting as the owner of every user id that a sandbox has, to make and delete its files."""

from __future__ import annotations

import os
import pwd
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sandhold.cell.identity import identity_for
from sandhold.errors import SbxError
from sandhold.linux.process import UserNamespace, spawn_module
from sandhold.linux.syscalls import CLONE_NEWUSER, unshare
from sandhold.linux.users import write_maps_with_helpers, write_single_id_map

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sandhold.linux.users import Maps

HOLDER_S_MAX: Final = 10.0  # the holder starts in 30 ms; a loaded machine gets patience


def require_user_ids() -> None:
    """Check that this user owns enough ids for a root file system.

    Raises:
        SbxError: with the commands that give them, when not.
    """
    identity = identity_for(0)
    if identity.is_single:
        name = pwd.getpwuid(os.geteuid()).pw_name
        raise SbxError(
            f"cannot make a root file system: {'; '.join(identity.notes)}",
            hint="`sudo apt-get install uidmap` and `sudo usermod --add-subuids 100000-165535 --add-subgids "
            f"100000-165535 {name}`; or use `--template host`",
        )


@contextmanager
def owner_of_ids() -> Iterator[UserNamespace | None]:
    """Return where a program owns every id of a sandbox: nowhere special for root, else a new user namespace.

    Without subordinate ids all files of a sandbox are the user's, and being root over them still helps: overlays leave
    folders behind that their owner may not enter.

    Raises:
        OSError: when the host does not let this user have one.
    """
    if os.geteuid() == 0:
        yield None
        return
    namespace = _open_user_namespace(identity_for(0).outer)
    try:
        yield UserNamespace(namespace)
    finally:
        os.close(namespace)


def main(fds: Sequence[int]) -> None:
    """Hold a new user namespace, in a process of its own, until the other end of the socket is closed."""
    with socket.socket(fileno=fds[0]) as parent:
        unshare(CLONE_NEWUSER)
        parent.sendall(b"!")
        parent.recv(1)


def _open_user_namespace(maps: Maps | None) -> int:
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(HOLDER_S_MAX)
        with theirs:
            holder = spawn_module(__name__, [theirs.fileno()])
        try:
            if not ours.recv(1):
                raise OSError("this host does not let ordinary users make user namespaces")
            if maps is not None:
                write_maps_with_helpers(holder.pid, maps)
            else:
                write_single_id_map(holder.pid, 0, os.geteuid(), os.getegid())
            return os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            holder.kill()
            holder.wait(HOLDER_S_MAX)
