"""QEMU's monitor, as we speak it to a machine that has not begun or was stopped. docs/interop/qmp-spec.txt of QEMU.

Rules:

1. Every wait ends with the deadline that the monitor was opened with, and no message is longer than a limit.
2. The socket is closed before anything of a sandbox's runs in the machine: who holds it could do all that QEMU can.
"""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from sandhold.cell.machine.qemu import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

MESSAGE_BYTES_MAX: Final = 64 << 10  # an answer has a few hundred
MESSAGES_MAX: Final = 1000  # before the one that is waited for: QEMU tells of a dozen things
STATE: Final = "state"  # what QEMU calls the descriptor that the devices' state goes through
MEMORY_STAYS: Final = ("x-ignore-shared", "events")  # memory that we hold is not written; an end is told


class MonitorError(OSError):
    """QEMU said something else than an answer, or said nothing in time."""


def let_go_on(control: socket.socket, state: int, wait_s: float) -> None:
    """Give a machine that has not begun its state, let it run, and close its monitor however that ends (rule 2).

    Raises:
        MonitorError: when the state does not fit, or QEMU does not answer.
        RefusedError: when QEMU takes none.
    """
    with control:
        monitor = Monitor(control, wait_s)
        monitor.greet()
        monitor.restore(state)


class Monitor:
    """One machine's monitor."""

    def __init__(self, control: socket.socket, wait_s: float) -> None:
        self._control = control
        self._deadline = time.monotonic() + wait_s
        self._rest = b""
        self._events: list[str] = []

    def greet(self) -> None:
        """Begin: it accepts no command before.

        Raises:
            MonitorError: when this is no monitor.
            RefusedError: when it cannot do what ours has to.
        """
        if "QMP" not in self._receive():
            raise MonitorError("QEMU's monitor did not say what it is")
        self._execute("qmp_capabilities")
        self._execute(
            "migrate-set-capabilities",
            capabilities=[{"capability": name, "state": True} for name in MEMORY_STAYS],
        )

    def stop(self) -> None:
        """Hold the machine still.

        Raises:
            MonitorError: when QEMU does not answer.
            RefusedError: when it cannot be.
        """
        self._execute("stop")

    def write_state(self, fd: int) -> None:
        """Have all but the memory of a machine that was stopped written to a pipe; `await_written` is its end.

        Raises:
            MonitorError: when QEMU does not answer.
            RefusedError: when it cannot be written.
        """
        self._execute("getfd", [fd], fdname=STATE)
        self._execute("migrate", uri=f"fd:{STATE}")

    def restore(self, fd: int) -> None:
        """Give a machine that has not begun what was written, and let it run.

        Raises:
            MonitorError: when it does not fit, or QEMU does not answer.
            RefusedError: when QEMU takes none.
        """
        self._execute("getfd", [fd], fdname=STATE)
        self._execute("migrate-incoming", uri=f"fd:{STATE}")
        self.await_written()
        self._execute("cont")

    def await_written(self) -> None:
        """Wait until everything was written, or read.

        Raises:
            MonitorError: when it was not.
        """
        for _ in range(MESSAGES_MAX):
            for status in self._events:
                if status in ("completed", "failed"):
                    if status == "failed":
                        raise MonitorError("QEMU could not move the machine's state")
                    self._events.clear()
                    return
            self._events.clear()
            self._note(self._receive())
        raise MonitorError("QEMU talks of everything but the machine's state")

    def _execute(self, command: str, fds: Sequence[int] = (), **arguments: object) -> None:
        message = json.dumps({"execute": command, "arguments": arguments}).encode("ascii")
        try:
            self._control.settimeout(self._left_s())
            socket.send_fds(self._control, [message], list(fds))
        except OSError as error:
            raise MonitorError(f"QEMU's monitor is gone: {error.strerror or error}") from error
        for _ in range(MESSAGES_MAX):
            answer = self._receive()
            if "return" in answer:
                return
            if "error" in answer:
                raise RefusedError(f"QEMU refuses `{command}`: {str(answer['error'])[:500]}")
            self._note(answer)
        raise MonitorError(f"QEMU does not answer `{command}`")

    def _note(self, message: dict[str, Any]) -> None:
        """Keep what an event tells of the state's way."""
        match message:
            case {"event": "MIGRATION", "data": {"status": str(status)}}:
                self._events.append(status)

    def _receive(self) -> dict[str, Any]:
        """Return the next message, a line each."""
        while b"\n" not in self._rest:
            try:
                self._control.settimeout(self._left_s())
                data = self._control.recv(MESSAGE_BYTES_MAX)
            except OSError as error:
                raise MonitorError(f"QEMU's monitor says nothing: {error.strerror or error}") from error
            if not data or len(self._rest) > MESSAGE_BYTES_MAX:
                raise MonitorError("QEMU's monitor ended" if not data else "QEMU's monitor says too much at once")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            raise MonitorError("QEMU's monitor says what is no message") from None
        if not isinstance(message, dict):
            raise MonitorError("QEMU's monitor says what is no message")
        return message

    def _left_s(self) -> float:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise MonitorError("QEMU's monitor did not answer in time")
        return left_s
