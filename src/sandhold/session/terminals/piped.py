"""A command inside without a terminal: three pipes of ours stand between the user's descriptors and the sandbox, which
so never holds one of the host's files or terminals (`pipe(7)`).

The requests are those of `session/control.py`, written by whoever calls.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from sandhold.session import packets
from sandhold.session.packets import ChannelError, close_all
from sandhold.session.terminals import replies
from sandhold.session.terminals.copies import Copy, Outcome, relay, signals_as_bytes

if TYPE_CHECKING:
    import socket

_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def run_piped(sock: socket.socket, request: bytes, *, wants_input: bool) -> Outcome:
    """Start a command through a session, with a request for one without a terminal, and stay with it until it ends.

    Raises:
        UntakenError: when the session never took the request; nothing of the user's input was read then.
    """
    if len(request) > packets.MESSAGE_BYTES_MAX:
        return replies.TOO_LONG
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
        said = replies.to_start(sock)
        if isinstance(said, Outcome):
            return said
        if said.terminal is not None:
            os.close(said.terminal)  # nobody asked for one
        return relay(_Session(sock), copies, stack.enter_context(signals_as_bytes(*_FORWARDED)))


class _Session:
    """The session, as seen by a user who only looks on; a `Side`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def ended(self) -> Outcome:
        return replies.ended(self._sock)

    def on_signal(self, signum: int) -> None:
        with suppress(ChannelError):  # the session is gone, which is said by `ended`
            packets.send(self._sock, b'{"type":"signal","signum":%d}' % signum)

    def wait_s(self) -> float | None:
        return None

    def attend(self, *, has_news: bool) -> Outcome | None:
        return None
