"""A command inside without a terminal: three pipes of ours stand between the user's descriptors and the sandbox, which
so never holds one of the host's files or terminals (`pipe(7)`).

The requests are those of `session/control.py`, written by whoever calls; the few answers there are to this one are
read here, with no more modules than that takes.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from sandhold.session import packets
from sandhold.session.packets import SEND_TIMEOUT_S, ChannelError, close_all
from sandhold.session.terminals.copies import (
    CUT_OFF,
    ENDED_WITHOUT_WORD,
    NO_ANSWER,
    Copy,
    Outcome,
    relay,
    signals_as_bytes,
)

if TYPE_CHECKING:
    import socket

START_TIMEOUT_S: Final = 90.0  # a sandbox under memory pressure, or an emulated one, starts a command late
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def run_piped(sock: socket.socket, request: bytes, *, wants_input: bool) -> Outcome:
    """Start a command through a session, with a request for one without a terminal, and stay with it until it ends.

    Raises:
        ChannelError: when the session does not answer the request; nothing of the user's input was read then.
    """
    with ExitStack() as stack:
        theirs: list[int] = []
        copies: list[Copy] = []
        for number in (0, 1, 2):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            mine, other = (writer, reader) if number == 0 else (reader, writer)
            theirs.append(other)
            copies.append(Copy(0, mine, close_sink=True) if number == 0 else Copy(mine, number, is_output=True))
        os.set_blocking(copies[0].sink, False)
        try:
            packets.send(sock, request, theirs)
        finally:
            close_all(theirs)
        for copy in copies[1:]:
            stack.callback(os.close, copy.source)
        if not wants_input:
            os.close(copies[0].sink)
            copies = copies[1:]
        side = _Session(sock)
        outcome = side.started()
        if outcome is not None:
            return outcome
        return relay(side, copies, stack.enter_context(signals_as_bytes(*_FORWARDED)))


class _Session:
    """The session, as seen by a user who only looks on; a `Side`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def started(self) -> Outcome | None:
        """Return None when the command runs, else how it ended before it could.

        Raises:
            ChannelError: when the session does not answer.
        """
        said = self._reply(START_TIMEOUT_S)
        return None if said.get("type") == "started" else _outcome(said)

    def ended(self) -> Outcome:
        try:
            return _outcome(self._reply(SEND_TIMEOUT_S))
        except ChannelError:
            return CUT_OFF

    def on_signal(self, signum: int) -> None:
        with suppress(ChannelError):  # the session is gone, which is said by `ended`
            packets.send(self._sock, b'{"type":"signal","signum":%d}' % signum)

    def wait_s(self) -> float | None:
        return None

    def attend(self, *, has_news: bool) -> Outcome | None:
        return None

    def _reply(self, timeout_s: float) -> dict[str, object]:
        packet, descriptors = packets.receive(self._sock, timeout_s)
        close_all(descriptors)
        try:
            said = json.loads(packet)
        except (ValueError, RecursionError) as error:
            raise ChannelError(f"not a reply: {error}") from error
        return said if isinstance(said, dict) else {}


def _outcome(said: dict[str, object]) -> Outcome:
    match said:
        case {"type": "ended", "status": int(status), "detail": str() | None as detail}:
            return Outcome(status, detail)
        case {"type": "failed", "message": str(message)}:
            return Outcome(ENDED_WITHOUT_WORD, message)
    return NO_ANSWER
