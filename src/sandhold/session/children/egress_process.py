"""Egress runs in a process of its own, outside the sandbox's reach: this is the session's handle on it.

The program is `egress_program`. It ends when the session does, because their link closes then.

Packets on the link (AF_UNIX, SOCK_SEQPACKET), one JSON object each. In: the setup, whose values are text (the folders
`state`, `data`, `config`; `sandbox`, `session`; `environment`, an object as JSON); the sockets inside with `users`, the
lines of the id map that the last of them speaks in, none where it is missing; `{"apply": true}`; `{"stop": true}`. Out:
what `egress/server.py` says.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from sandhold.model.rule import Generation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandhold.cell.spec import Cell
    from sandhold.linux.process import Child, Spawn
    from sandhold.paths import Paths

READY_TIMEOUT_S: Final = 30.0  # an interpreter's start on a machine that is busy with twenty others
STOP_TIMEOUT_S: Final = 10.0  # the end records of every open connection go to disk
MESSAGE_BYTES_MAX: Final = 4096
SETUP_BYTES_MAX: Final = 128 * 1024  # a few paths, and the variables that name the host's proxy
SOCKETS: Final = 6  # TCP, DNS over UDP, DNS over TCP, for IPv4 and IPv6 each; one more tells whose a connection is
EGRESS_PROGRAM: Final = "sandhold.session.children.egress_program"


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
    def start(cls, spawn: Spawn, paths: Paths, sandbox: str, session: str, environ: Mapping[str, str]) -> Self:
        """Start egress, which reads the policy and waits for the cell's sockets. Its words go to our standard error.

        Raises:
            OSError: when no process can be started.
        """
        setup = {
            "state": str(paths.state),
            "data": str(paths.data),
            "config": str(paths.config),
            "sandbox": sandbox,
            "session": session,
            "environment": json.dumps(dict(environ)),
        }
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            with theirs:
                ours.send(json.dumps(setup).encode())
                child = spawn(EGRESS_PROGRAM, [theirs.fileno()], stderr=2)
            undo.pop_all()
        return cls(child, ours)

    def listen(self, cell: Cell) -> None:
        """Let it serve the cell's sockets; when it does, `wait_ready` returns.

        Raises:
            OSError: when it is gone.
        """
        sockets = cell.sockets
        fds = [one.fileno() for one in (*sockets.tcp, *sockets.dns_udp, *sockets.dns_tcp)]
        assert len(fds) == SOCKETS
        users: list[tuple[int, int, int]] = []
        if cell.owners is not None:
            fds.append(cell.owners.link.fileno())
            users = [(line.inside, line.outside, line.count) for line in cell.owners.users]
        socket.send_fds(self._link, [json.dumps({"users": users}).encode()], fds)

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
