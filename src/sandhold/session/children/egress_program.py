"""The program that is egress: it composes what the rooms below offer, and serves until the session says stop.

The policy comes from the store, records go to the trail, the authority is read when the first refusal over TLS needs
it, and the sockets that were made inside the cell come over the link, once there is a cell.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.egress.host_proxy import read_proxy
from sandhold.egress.server import EgressSetup, Inside, serve
from sandhold.linux.sock_diag import SocketOwners
from sandhold.linux.syscalls import die_with_parent
from sandhold.linux.users import IdRange
from sandhold.paths import Paths
from sandhold.session.children.egress_process import MESSAGE_BYTES_MAX, SETUP_BYTES_MAX, SOCKETS
from sandhold.session.circumstances import CLOCK
from sandhold.session.furnish.agent_rules import brought_rules
from sandhold.session.log import SessionLog
from sandhold.store.audit import Trail
from sandhold.store.policy_index import read_index

if TYPE_CHECKING:
    from collections.abc import Sequence

SWITCH_INTERVAL_S: Final = 0.0005  # a thread that has a record on disk waits so long for the loop, not ten times
_RESOLVERS: Final = Path("/etc/resolv.conf")


def main(fds: Sequence[int]) -> None:
    """Serve on the packet socket `fds[0]`, the link; the packets on it are those that `egress_process` names."""
    # A process that somebody stopped would not see its link close: the session's end wakes it.
    die_with_parent(signal.SIGCONT)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with socket.socket(fileno=fds[0]) as link:
        packet = link.recv(SETUP_BYTES_MAX)
        if packet:
            _serve(json.loads(packet), link)


def _serve(given: dict[str, str], link: socket.socket) -> None:
    paths = Paths(Path(given["state"]), Path(given["data"]), Path(given["config"]))
    sandbox = given["sandbox"]
    sys.stderr = SessionLog(paths.sandbox(sandbox))
    brought = brought_rules(paths, sandbox)
    index = read_index(paths.database, sandbox, brought)
    with Trail.open(paths.trail(sandbox), sandbox, given["session"], CLOCK) as trail:
        inside = _receive_sockets(link)
        if inside is None:
            return
        setup = EgressSetup(
            inside=inside,
            sandbox=sandbox,
            index=index,
            append=trail.append,
            written=lambda: trail.written,
            authority=paths.authority,
            proxy=read_proxy(json.loads(given["environment"])),
            resolvers=_resolvers,
            now=time.time,
            reload=lambda: read_index(paths.database, sandbox, brought),
        )
        serve(setup, link)


def _receive_sockets(link: socket.socket) -> Inside | None:
    """Wait for the sockets inside, as many as `Inside` has; None when the session ends before there is a cell."""
    message, fds, _, _ = socket.recv_fds(link, MESSAGE_BYTES_MAX, SOCKETS + 1, socket.MSG_CMSG_CLOEXEC)
    said = json.loads(message or b"{}")
    if "users" not in said:
        return None
    users = tuple(IdRange(*line) for line in said["users"])
    sockets = [socket.socket(fileno=fd) for fd in fds]
    if len(sockets) != SOCKETS + bool(users):
        for one in sockets:
            one.close()
        raise OSError("the sockets inside did not come whole")
    owners = SocketOwners(sockets[SOCKETS], users) if users else None
    return Inside(tuple(sockets[0:2]), tuple(sockets[2:4]), tuple(sockets[4:6]), owners)


def _resolvers() -> tuple[str, ...]:
    """Return the host's nameservers as they are now (resolv.conf(5)), none when it names none."""
    try:
        lines = _RESOLVERS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    return tuple(words[1] for line in lines if len(words := line.split()) >= 2 and words[0] == "nameserver")
