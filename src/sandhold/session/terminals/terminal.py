"""The user's end of a command inside: bytes both ways, sizes, signals, and a terminal that is always put back.

The other end of the sandbox's own pseudo-terminal is passed to us and bytes go straight through (`pty(7)`,
`termios(3)`). Without a terminal, `piped.py` stands between.

Rules:

1. Every byte passes unchanged both ways, but for the keys that leave (`session/terminals/keys.py`).
2. The terminal has its settings back however this ends, and what a program inside left switched on is switched off.
3. A user who leaves takes the last screenful to the session, which gives it to whoever comes back.
"""

from __future__ import annotations

import binascii
import contextlib
import fcntl
import os
import signal
import struct
import termios
import time
from typing import TYPE_CHECKING, Final

from sandhold.session import packets
from sandhold.session.packets import ChannelError
from sandhold.session.terminals import replies
from sandhold.session.terminals.copies import NO_ANSWER, Copy, Outcome, relay, signals_as_bytes
from sandhold.session.terminals.keys import HOLD_S, Keys
from sandhold.session.terminals.own_terminal import own_output, pause, raw_terminal
from sandhold.session.terminals.piped import run_piped
from sandhold.session.terminals.scrollback import Scrollback

if TYPE_CHECKING:
    import socket

    from sandhold.session.terminals.own_terminal import Settings

REDRAW_S: Final = 0.3  # programs look at their size a moment after they were told of it, and at the last one only
REDRAW_S_MAX: Final = 3.0  # for a program that has not drawn by then: the machine is busy, or it never will

_SIZE = struct.Struct("HHHH")  # struct winsize
_AT_TERMINAL: Final = (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
_CLEAR: Final = b"\x1b[H\x1b[2J"
_CLEAR_BELOW: Final = b"\x1b[J"  # of a program that was left in the middle of what it drew


class _Desk:
    """A user at a terminal, a `Side`: what was typed to leave and what was shown.

    A program that was left is come back to at `back_at` (monotonic), until it has the whole width and so has
    drawn anew; `has_drawn` once it printed something in between.
    """

    def __init__(
        self, sock: socket.socket, settings: Settings, master: int, keys: Keys, shown: Scrollback, typed: Copy
    ) -> None:
        self.sock = sock
        self.settings = settings
        self.master = master
        self.keys = keys
        self.shown = shown
        self.typed = typed
        self.back_at: float | None = None
        self.has_drawn = False

    def show(self, data: bytes) -> bytes:
        """Take in what the program prints and return it."""
        self.has_drawn = True
        return self.shown.feed(data)

    def redraws_in(self) -> float | None:
        """Return the seconds until the program gets the whole width, None where that is not waited for."""
        if self.back_at is None:
            return None
        wait_s = REDRAW_S if self.has_drawn else REDRAW_S_MAX
        return max(0.0, self.back_at + wait_s - time.monotonic())

    def fileno(self) -> int:
        """As a `Side` says."""
        return self.sock.fileno()

    def ended(self) -> Outcome:
        """As a `Side` says."""
        return replies.ended(self.sock)

    def on_signal(self, signum: int) -> None:
        """As a `Side` says."""
        if signum == signal.SIGWINCH:
            _copy_size(self.master)
        elif signum == signal.SIGTSTP:
            pause(self.settings)
            _copy_size(self.master)
        else:
            raise SystemExit(128 + signum)

    def wait_s(self) -> float | None:
        """As a `Side` says."""
        waits = [HOLD_S] if self.keys.is_holding else []
        redraws_in = self.redraws_in()
        waits += [redraws_in] if redraws_in is not None else []
        return min(waits, default=None)

    def attend(self, *, has_news: bool) -> Outcome | None:
        """As a `Side` says."""
        if self.redraws_in() == 0:
            self.back_at = None
            _copy_size(self.master)
        elif self.keys.is_holding and not has_news:
            with contextlib.suppress(OSError):
                os.write(self.typed.sink, self.keys.release())
        return _leave(self) if self.keys.has_left else None


def has_terminal() -> bool:
    """Whether the user sits at a terminal: standard input and output both are one."""
    return os.isatty(0) and os.isatty(1)


def terminal_size() -> tuple[int, int]:
    """Return rows and columns of the user's terminal, 24 by 80 when it does not say."""
    with contextlib.suppress(OSError):
        rows, columns, _, _ = _SIZE.unpack(fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(_SIZE.size)))
        if rows and columns:
            return rows, columns
    return 24, 80


def attach(sock: socket.socket, request: bytes, *, wants_terminal: bool, wants_input: bool) -> Outcome:
    """Start a command through a session, with a request (`control.Start`) that says the same of the terminal, and stay
    with it until it ends.

    Raises:
        UntakenError: when the session never took the request.
    """
    if wants_terminal:
        return _on_terminal(sock, request)
    return run_piped(sock, request, wants_input=wants_input)


def _on_terminal(sock: socket.socket, request: bytes) -> Outcome:
    if len(request) > packets.MESSAGE_BYTES_MAX:
        return replies.TOO_LONG
    packets.send(sock, request)
    said = replies.to_start(sock)
    if isinstance(said, Outcome):
        return said
    master, before = said
    if master is None:
        return NO_ANSWER
    keys, shown = Keys(), Scrollback()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, master)
        wake = stack.enter_context(signals_as_bytes(*_AT_TERMINAL))
        output = stack.enter_context(own_output())
        settings = stack.enter_context(raw_terminal(output, shown))

        _copy_size(master, narrower=bool(before))
        typing = os.dup(master)  # a selector takes each descriptor once, and this one is waited for both ways
        stack.callback(os.close, typing)
        os.set_blocking(typing, False)
        typed = Copy(0, typing)
        typed.passing = keys.take
        desk = _Desk(sock, settings, master, keys, shown, typed)
        desk.back_at = time.monotonic() if before else None
        showing = Copy(master, output, is_output=True)
        showing.passing = desk.show
        showing.pending = shown.feed(_CLEAR + before) if before else b""
        outcome = relay(desk, [typed, showing], wake)
        if outcome.has_left:
            with contextlib.suppress(OSError):
                os.write(output, _CLEAR_BELOW)
        return outcome


def _leave(desk: _Desk) -> Outcome | None:
    """Tell the session that the user leaves; a command that ended just then has ended. None: it may not be left."""
    with contextlib.suppress(ChannelError):
        shown = binascii.b2a_base64(desk.shown.replay(), newline=False)
        packets.send(desk.sock, b'{"type":"leave","shown":"%s"}' % shown)
    outcome = replies.to_leave(desk.sock)
    if outcome is None:
        desk.keys = Keys()
        desk.typed.passing = desk.keys.take
    return outcome


def _copy_size(master: int, *, narrower: bool = False) -> None:
    """Give the sandbox's terminal the size of the user's.

    The kernel tells a program of its size only when that changes (ioctl_tty(2)), and a full-screen program that was
    left draws itself anew only when told: `narrower` makes a difference that a later call takes back.
    """
    with contextlib.suppress(OSError):
        rows, columns = terminal_size()
        fcntl.ioctl(master, termios.TIOCSWINSZ, _SIZE.pack(rows, max(1, columns - narrower), 0, 0))
