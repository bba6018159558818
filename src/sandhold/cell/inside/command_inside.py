"""How process 1 turns into a command: descriptors, terminal, filter, capabilities, user, and then the program.

Each step gives up what the next no longer needs; the order is the one the kernel demands. The filter is loaded while
CAP_SYS_ADMIN of the inner user namespace is still there, because `sudo` forbids `no_new_privs`.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import TYPE_CHECKING, NoReturn

from sandhold.cell.execution import AGENT_ID, Order, execute, groups_of_agent, reset_process, take_streams
from sandhold.linux import seccomp
from sandhold.linux.capabilities import INSTALLING, capset, limit_bounding_set
from sandhold.linux.syscalls import Machine, no_new_privileges

if TYPE_CHECKING:
    from collections.abc import Sequence


def become(order: Order, streams: Sequence[int], report: socket.socket, *, is_single: bool) -> NoReturn:
    """Be the command, with `streams` as its descriptors 0, 1, 2 and on. Sends the filter's descriptor over `report`,
    then an error if the program cannot be started.

    `report` closes by itself when the program starts.
    """
    what = order.folder
    try:
        os.setsid()
        report = socket.socket(fileno=take_streams(streams, report.detach(), has_terminal=order.has_terminal))
        reset_process()
        groups = groups_of_agent() if not order.is_root and not is_single else []
        if is_single:
            no_new_privileges()
        listener = seccomp.load(seccomp.program(Machine.here()))
        socket.send_fds(report, [b"filter"], [listener])
        os.close(listener)
        _step_down(groups, is_root=order.is_root, is_single=is_single)
        os.chdir(order.folder)
        what = order.argv[0]
        execute(order)
    except OSError as error:
        words = error.strerror or str(error)
        report.send(json.dumps({"errno": error.errno or errno.EIO, "detail": f"{what}: {words}"[:1000]}).encode())
    finally:
        os._exit(127)


def _step_down(groups: Sequence[int], *, is_root: bool, is_single: bool) -> None:
    limit_bounding_set(frozenset() if is_single else INSTALLING)
    if is_single:
        capset(frozenset())
        return
    user = 0 if is_root else AGENT_ID
    os.setgroups(groups)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    capset(INSTALLING if is_root else frozenset())
