"""The program that becomes a cell: it makes the namespaces, and forks process 1 of the new ones.

The session starts it with an empty environment and the descriptors it names. The launcher itself stays on the host's
side and only waits; process 1 dies with it, everything inside dies with process 1, and both die with the session.
"""

from __future__ import annotations

import array  # noqa: F401  # `socket.send_fds` imports it at its first call, when nothing may be imported any more
import json
import os
import select
import signal
import socket
import sys
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

    from sandhold.cell.plan import Plan

MESSAGE_BYTES_MAX: Final = 4096
_NULL: Final = "/dev/null"


def main(fds: Sequence[int]) -> None:
    """Run with the channel, the plan, the network namespace and, where it is not the host's, its user namespace.

    Messages, one JSON object a packet. In: `{"go": true}` once limits hold this process. Out: `{"process": true}` with
    a descriptor of process 1, then from process 1 `{"mounts": true}` with its mount namespace and `{"ready": true}`;
    `{"failed": text}` from either.
    """
    channel = socket.socket(fileno=fds[0])
    channel.set_inheritable(False)  # root inside can lower the limit that a command's descriptors are closed up to
    network = Namespaces(fds[2], fds[3] if len(fds) > 3 else None)
    try:
        plan = _read_plan(fds[1])
        die_with_parent(signal.SIGKILL)
        if os.getppid() != plan.parent or channel.recv(MESSAGE_BYTES_MAX) != b'{"go": true}':
            return
        pid = _launch(channel, plan, network)
        del plan  # a megabyte of files that stand in the cell by now, or soon
        status = _await_end(pid)
    except (OSError, ValueError, KeyError) as error:
        _fail(channel, error)
        status = 1
    os._exit(status)


def _launch(channel: socket.socket, plan: Plan, network: Namespaces) -> int:
    """Enter the outer namespaces, fork process 1 and return its number; what it is tied to stays open here."""
    if network.user is not None:
        setns(network.user, CLONE_NEWUSER)
        # Entering it closed this process's /proc folder to us, and the maps of the inner one are written there.
        allow_dumping()
    inner = new_user_namespace(plan.inner, may_set_groups=not plan.is_single)
    workspace_maps = [new_user_namespace(mount.maps) if mount.maps is not None else None for mount in plan.mounts]
    setns(network.network, CLONE_NEWNET)
    unshare(CLONE_NEWPID)
    alive, alive_write = os.pipe()
    pid = fork()
    if pid == 0:
        os.close(alive_write)
        _become_first_process(channel, plan, inner, workspace_maps, alive)
    pidfd = os.pidfd_open(pid)
    socket.send_fds(channel, [b'{"process": true}'], [pidfd])
    channel.close()
    os.close(pidfd)
    return pid


def _await_end(pid: int) -> int:
    """Wait for process 1, with as little memory as can be, and return its exit status."""
    trim_heap()
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


def _become_first_process(
    channel: socket.socket, plan: Plan, inner: int, workspace_maps: Sequence[int | None], alive: int
) -> NoReturn:
    """Be process 1: build the root, step down into the inner user namespace, and serve the session."""
    status = 1
    try:
        _tie_to(alive)
        # From here on nothing is imported: the next file found on the path could be the sandbox's.
        sys.path.clear()
        sys.meta_path.clear()
        unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)
        root = build_root(plan, inner, workspace_maps)
        _show_mounts(channel)
        socket.sethostname(plan.name)
        setns(inner, CLONE_NEWUSER)
        if not plan.is_single:
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
        rename_process(b"sbx")
        forbid_dumping()
        _tie_to(alive)
        _keep_only(channel.fileno())
        trim_heap()
        channel.send(b'{"ready": true}')
        serve(channel, root, is_single=plan.is_single)
        status = 0
    except (OSError, ValueError, KeyError) as error:
        _fail(channel, error)
    finally:
        os._exit(status)


def _show_mounts(channel: socket.socket) -> None:
    """Give the session a way into the mount namespace, which nothing inside can mount in."""
    mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    socket.send_fds(channel, [b'{"mounts": true}'], [mounts])
    os.close(mounts)


def _tie_to(alive: int) -> None:
    """Die with the launcher, which holds the other end of a pipe; its pid is not visible from here."""
    die_with_parent(signal.SIGKILL)
    poll = select.poll()
    poll.register(alive, select.POLLIN)
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
