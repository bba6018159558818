"""Egress runs in a process of its own, outside the sandbox's reach: this is the session's handle on it, and its start.

The process composes what the rooms below offer: the policy from the store, the trail, the authority, the sockets that
were made inside the cell. It ends when the session does, because their link closes then.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from sandhold.linux.process import spawn_program
from sandhold.linux.syscalls import die_with_parent
from sandhold.model.rule import Generation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandhold.cell.spec import Cell
    from sandhold.linux.process import Child
    from sandhold.paths import Paths

READY_TIMEOUT_S: Final = 30.0  # an interpreter's start on a machine that is busy with twenty others
STOP_TIMEOUT_S: Final = 10.0  # the end records of every open connection go to disk
MESSAGE_BYTES_MAX: Final = 4096

_MODULE: Final = "sandhold.session.egress_process"


class EgressError(Exception):
    """The egress process did not start, or said something that fits nothing."""


@dataclass(frozen=True, slots=True)
class Switched:
    """Egress took over a generation and cut so many connections for it."""

    generation: Generation
    cut: int


class EgressProcess:
    """The session's end of a running egress process."""

    def __init__(self, child: Child, link: socket.socket) -> None:
        self._child = child
        self._link = link

    @classmethod
    def start(cls, paths: Paths, sandbox: str, session: str, cell: Cell, environ: Mapping[str, str]) -> Self:
        """Start egress on the cell's sockets; it is not ready yet. Its words go to our standard error.

        Raises:
            OSError: when no process can be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            setup = {
                "state": str(paths.state),
                "data": str(paths.data),
                "config": str(paths.config),
                "sandbox": sandbox,
                "session": session,
                "link": theirs.fileno(),
                "tcp": [sock.fileno() for sock in cell.tcp],
                "dns_udp": [sock.fileno() for sock in cell.dns_udp],
                "dns_tcp": [sock.fileno() for sock in cell.dns_tcp],
            }
            fds = [theirs.fileno(), *setup["tcp"], *setup["dns_udp"], *setup["dns_tcp"]]  # type: ignore[misc]  # the three lists
            try:
                child = spawn_program(_MODULE, [json.dumps(setup)], fds=fds, log=2, environment=environ)
            except BaseException:
                ours.close()
                raise
        return cls(child, ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._link.fileno()

    def wait_ready(self) -> Generation:
        """Return the generation it runs on, once it listens.

        Raises:
            EgressError: when it does not within `READY_TIMEOUT_S`.
        """
        message = self._receive(READY_TIMEOUT_S)
        if message is None or "ready" not in message:
            raise EgressError("egress did not start; `sbx logs` may say why")
        return Generation(message["ready"])

    def apply(self) -> None:
        """Ask it to take over the policy as it is now; the answer comes as `news()`."""
        self._send({"apply": True})

    def news(self) -> Switched | None:
        """Return what it has to say; None when it is gone."""
        message = self._receive(READY_TIMEOUT_S)
        if message is None or "applied" not in message:
            return None
        return Switched(Generation(message["applied"]), message.get("cut", 0))

    def stop(self) -> bool:
        """Cut every connection, wait until their ends are on record, and end the process. May be called again.

        Returns whether egress said that it has stopped: otherwise connections may be without an end on record.
        """
        if self._link.fileno() < 0:
            return False
        self._send({"stop": True})
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while (message := self._receive(deadline - time.monotonic())) is not None and "stopped" not in message:
            pass
        self._link.close()
        try:
            self._child.wait(max(0.1, deadline - time.monotonic()))
        except TimeoutError:
            self._child.kill()
            self._child.wait(STOP_TIMEOUT_S)
        return message is not None

    def _send(self, message: Mapping[str, bool]) -> None:
        try:
            self._link.send(json.dumps(message).encode())
        except OSError:
            return  # it is gone; the next receive says so

    def _receive(self, timeout_s: float) -> dict[str, int] | None:
        try:
            self._link.settimeout(max(0.01, timeout_s))
            packet = self._link.recv(MESSAGE_BYTES_MAX)
            message = json.loads(packet) if packet else None
        except (OSError, ValueError):
            return None
        if not isinstance(message, dict):
            return None
        return {str(key): value for key, value in message.items() if isinstance(value, int)}


def main() -> None:
    """Compose egress in this process and serve until the session says stop or is gone."""
    # Imported here: the session needs the handle above and none of these.
    from sandhold.egress.host_proxy import read_proxy  # noqa: PLC0415
    from sandhold.egress.server import EgressSetup, Inside, serve  # noqa: PLC0415
    from sandhold.paths import Paths  # noqa: PLC0415
    from sandhold.session.agent_rules import brought_rules  # noqa: PLC0415
    from sandhold.session.policies import CLOCK  # noqa: PLC0415
    from sandhold.store.audit import Trail  # noqa: PLC0415
    from sandhold.store.policy_index import read_index  # noqa: PLC0415

    # A process that somebody stopped would not see its link close: the session's end wakes it.
    die_with_parent(signal.SIGCONT)
    given = json.loads(sys.argv[1])
    paths = Paths(Path(given["state"]), Path(given["data"]), Path(given["config"]))
    sandbox = given["sandbox"]
    brought = brought_rules(paths, sandbox)

    def sockets(kind: str) -> tuple[socket.socket, ...]:
        return tuple(socket.socket(fileno=number) for number in given[kind])

    with (
        socket.socket(fileno=given["link"]) as link,
        Trail.open(paths.trail(sandbox), sandbox, given["session"], CLOCK) as trail,
    ):
        setup = EgressSetup(
            inside=Inside(sockets("tcp"), sockets("dns_udp"), sockets("dns_tcp")),
            sandbox=sandbox,
            index=read_index(paths.database, sandbox, brought),
            append=trail.append,
            authority=paths.authority,
            proxy=read_proxy(os.environ),
            resolvers=_resolvers(),
            now=time.time,
            reload=lambda: read_index(paths.database, sandbox, brought),
        )
        serve(setup, link)


def _resolvers() -> tuple[str, ...]:
    """Return the host's nameservers (resolv.conf(5)), none when it names none."""
    try:
        lines = Path("/etc/resolv.conf").read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    return tuple(words[1] for line in lines if len(words := line.split()) >= 2 and words[0] == "nameserver")


if __name__ == "__main__":
    main()
