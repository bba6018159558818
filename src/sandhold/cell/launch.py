"""The program that becomes a cell: it makes the namespaces, and forks process 1 of the new ones.

The session starts it with an empty environment and the descriptors it names. The launcher itself stays on the host's
side and ends as soon as there is a process 1, which the session adopts: process 1 dies with the session from then on,
and everything inside dies with process 1.
"""

from __future__ import annotations

import array  # noqa: F401  # `socket.send_fds` imports it at its first call, when nothing may be imported any more
import json
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from sandhold.cell.inside.first_process import serve
from sandhold.cell.inside.root_inside import build_root
from sandhold.cell.plan import PLAN_BYTES_MAX, from_bytes
from sandhold.linux.process import Namespaces, fork
from sandhold.linux.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    allow_dumping,
    die_with_parent,
    forbid_dumping,
    rename_process,
    setns,
    trim_heap,
    unshare,
)
from sandhold.linux.users import new_user_namespace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandhold.cell.inside.root_inside import Root
    from sandhold.cell.plan import Plan

MESSAGE_BYTES_MAX: Final = 4096
ENDING_TIMEOUT_S: Final = 20.0  # the launcher does nothing more; a loaded machine gets patience
_NULL: Final = "/dev/null"


def main(fds: Sequence[int]) -> NoReturn:
    """Run with the channel, the plan, the network namespace and, where it is not the host's, its user namespace.

    Messages, one JSON object a packet. In: `{"go": true}` once limits hold this process. Out: `{"process": true}` with
    a descriptor of process 1, then from process 1 `{"mounts": true}` with its mount namespace and `{"ready": true}`;
    `{"failed": text}` from either.
    """
    channel = socket.socket(fileno=fds[0])
    channel.set_inheritable(False)  # root inside can lower the limit that a command's descriptors are closed up to
    status = 1
    try:
        _run(channel, fds[1], Namespaces(fds[2], fds[3] if len(fds) > 3 else None))
        status = 0
    except (OSError, ValueError, KeyError) as error:
        _fail(channel, error)
    finally:
        os._exit(status)  # two processes come here, and neither runs on into what this one was forked from


def _run(channel: socket.socket, plan_fd: int, network: Namespaces) -> None:
    """Be the launcher, which ends when there is a process 1, then be that."""
    plan = _read_plan(plan_fd)
    die_with_parent(signal.SIGKILL)
    if os.getppid() != plan.parent or channel.recv(MESSAGE_BYTES_MAX) != b'{"go": true}':
        return
    ties = _launch(channel, plan, network)
    if ties is None:
        return
    root = _become_first_process(channel, plan, ties)
    is_single = plan.is_single
    del plan  # a megabyte of files that stand in the cell by now
    trim_heap()
    channel.send(b'{"ready": true}')
    serve(channel, root, is_single=is_single)


@dataclass(frozen=True, slots=True)
class _Ties:
    """What process 1 has of the launcher: descriptors of it, of the inner user namespace, and of the one that each
    mount is shown through."""

    launcher: int
    inner: int
    workspace_maps: tuple[int | None, ...]


def _launch(channel: socket.socket, plan: Plan, network: Namespaces) -> _Ties | None:
    """Enter the outer namespaces and fork process 1; what ties it to the launcher there, None here."""
    if network.user is not None:
        setns(network.user, CLONE_NEWUSER)
        # Entering it closed this process's /proc folder to us, and the maps of the inner one are written there.
        allow_dumping()
    inner = new_user_namespace(plan.inner, may_set_groups=not plan.is_single)
    maps = tuple(new_user_namespace(mount.maps) if mount.maps is not None else None for mount in plan.mounts)
    setns(network.network, CLONE_NEWNET)
    unshare(CLONE_NEWPID)
    launcher = os.pidfd_open(os.getpid())
    pid = fork()
    if pid == 0:
        return _Ties(launcher, inner, maps)
    socket.send_fds(channel, [b'{"process": true}'], [os.pidfd_open(pid)])
    return None


def _become_first_process(channel: socket.socket, plan: Plan, ties: _Ties) -> Root:
    """Be a child of the session, build the root, and step down into the inner user namespace."""
    _outlive(ties.launcher)
    _tie_to_session(channel)
    # From here on nothing is imported: the next file found on the path could be the sandbox's.
    sys.path.clear()
    sys.meta_path.clear()
    unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)
    root = build_root(plan, ties.inner, ties.workspace_maps)
    _show_mounts(channel)
    socket.sethostname(plan.name)
    setns(ties.inner, CLONE_NEWUSER)
    if not plan.is_single:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    rename_process(b"sbx")
    forbid_dumping()
    _tie_to_session(channel)
    _keep_only(channel.fileno())
    return root


def _show_mounts(channel: socket.socket) -> None:
    """Give the session a way into the mount namespace, which nothing inside can mount in."""
    mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    socket.send_fds(channel, [b'{"mounts": true}'], [mounts])
    os.close(mounts)


def _outlive(launcher: int) -> None:
    """Wait for the launcher's end, which makes this process a child of the session.

    A descriptor of a process is readable when its children have a new parent already: `exit_notify` in kernel/exit.c.
    """
    poll = select.poll()
    poll.register(launcher, select.POLLIN)
    if not poll.poll(ENDING_TIMEOUT_S * 1000):
        raise TimeoutError("the launcher of the sandbox did not end in time")


def _tie_to_session(channel: socket.socket) -> None:
    """Die with the session, which holds the other end of the channel; its pid is not visible from here."""
    die_with_parent(signal.SIGKILL)
    poll = select.poll()
    poll.register(channel, 0)  # that the other end is closed is told unasked
    if poll.poll(0):
        os._exit(1)


def _keep_only(fd: int) -> None:
    """Close everything but the channel; 0, 1 and 2 become the cell's own null device."""
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
    null = os.open(_NULL, os.O_RDWR | os.O_CLOEXEC)
    for number in (0, 1, 2):
        os.dup2(null, number, inheritable=False)
    os.close(null)


def _read_plan(fd: int) -> Plan:
    with open(fd, "rb") as file:
        return from_bytes(file.read(PLAN_BYTES_MAX))


def _fail(channel: socket.socket, error: Exception) -> None:
    text = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
    try:
        channel.send(json.dumps({"failed": text[:2000]}).encode())
    except OSError:
        return
