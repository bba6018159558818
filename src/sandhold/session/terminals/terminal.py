"""The user's end of a command inside: bytes both ways, sizes, signals, and a terminal that is always put back.

With a terminal, the other end of the sandbox's own pseudo-terminal is passed to us and bytes go straight through. With
none, three pipes that we made stand between the user's descriptors and the sandbox, which so never holds one of the
host's files or terminals (`pty(7)`, `termios(3)`).

Rules:

1. Every byte passes unchanged both ways, but for the keys that leave (`session/terminals/keys.py`).
2. The terminal has its settings back however this ends, and what a program inside left switched on is switched off.
3. A user who leaves takes the last screenful to the session, which gives it to whoever comes back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import struct
import termios
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from sandhold.session import control
from sandhold.session.terminals.keys import HOLD_S, Keys
from sandhold.session.terminals.own_terminal import own_output, pause, raw_terminal, signals_as_bytes
from sandhold.session.terminals.scrollback import Scrollback

if TYPE_CHECKING:
    from collections.abc import Callable

COPY_BYTES_MAX: Final = 64 * 1024  # one pipe's worth (pipe(7))
START_TIMEOUT_S: Final = 90.0  # a sandbox under memory pressure, or an emulated one, starts a command late
DRAIN_BYTES_MAX: Final = 1 << 20  # what a pipe can hold (pipe(7)); a program left behind inside writes for ever
DRAIN_TIMEOUT_S: Final = 2.0  # output still in the pipe when the command has ended

REDRAW_S: Final = 0.3  # programs look at their size a moment after they were told of it, and at the last one only
REDRAW_S_MAX: Final = 3.0  # for a program that has not drawn by then: the machine is busy, or it never will

_SIZE = struct.Struct("HHHH")  # struct winsize
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_AT_TERMINAL: Final = (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
_ENDED_WITHOUT_WORD: Final = 125
_CLEAR: Final = b"\x1b[H\x1b[2J"
_CLEAR_BELOW: Final = b"\x1b[J"  # of a program that was left in the middle of what it drew


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command inside ended. `detail` says why when it could not be started; `is_cut_off` says that its session
    went away, `has_left` that it goes on and the user left it."""

    status: int
    detail: str | None = None
    is_cut_off: bool = False
    has_left: bool = False


class _Progress(Enum):
    MORE = "more"
    BLOCKED = "blocked"
    DONE = "done"


@dataclass(slots=True)
class _Copy:
    """One direction: from a descriptor to another. What the sink did not take yet is `pending`.

    What was read goes through `passing`, which may look at it and keep something back. `left` is how many bytes are
    still copied, None for as long as they come.
    """

    source: int
    sink: int
    close_sink: bool = False
    is_output: bool = False
    pending: bytes = b""
    left: int | None = None
    passing: Callable[[bytes], bytes] | None = None


@dataclass(slots=True)
class _Desk:
    """A user at a terminal: what was typed to leave and what was shown.

    A program that was left is come back to at `back_at` (monotonic), until it has the whole width and so has
    drawn anew; `has_drawn` once it printed something in between.
    """

    master: int
    keys: Keys
    shown: Scrollback
    typed: _Copy
    back_at: float | None
    has_drawn: bool = False

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


def attach(channel: control.Channel, request: control.Start, *, wants_input: bool) -> Outcome:
    """Start a command through a session and stay with it until it ends.

    Raises:
        control.ChannelError: when the session does not answer the request.
    """
    return _on_terminal(channel, request) if request.wants_terminal else _on_pipes(channel, request, wants_input)


def _on_terminal(channel: control.Channel, request: control.Start) -> Outcome:
    channel.send(request)
    reply, descriptors = channel.receive_reply(START_TIMEOUT_S)
    if not isinstance(reply, control.Started) or len(descriptors) != 1:
        return _not_started(reply, descriptors)
    master = descriptors[0]
    keys, shown = Keys(), Scrollback()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, master)
        wake = stack.enter_context(signals_as_bytes(*_AT_TERMINAL))
        output = stack.enter_context(own_output())
        settings = stack.enter_context(raw_terminal(output, shown))

        def on_signal(signum: int) -> None:
            if signum == signal.SIGWINCH:
                _copy_size(master)
            elif signum == signal.SIGTSTP:
                pause(settings)
                _copy_size(master)
            else:
                raise SystemExit(128 + signum)

        _copy_size(master, narrower=bool(reply.shown))
        typing = os.dup(master)  # a selector takes each descriptor once, and this one is waited for both ways
        stack.callback(os.close, typing)
        os.set_blocking(typing, False)
        typed = _Copy(0, typing, passing=keys.take)
        desk = _Desk(master, keys, shown, typed, back_at=time.monotonic() if reply.shown else None)
        showing = _Copy(master, output, is_output=True, passing=desk.show)
        showing.pending = shown.feed(_CLEAR + reply.shown) if reply.shown else b""
        outcome = _relay(channel, [typed, showing], wake, on_signal, desk)
        if outcome.has_left:
            with contextlib.suppress(OSError):
                os.write(output, _CLEAR_BELOW)
        return outcome


def _on_pipes(channel: control.Channel, request: control.Start, wants_input: bool) -> Outcome:  # noqa: FBT001 - private
    with contextlib.ExitStack() as stack:
        theirs: list[int] = []
        copies: list[_Copy] = []
        for number in (0, 1, 2):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            mine, other = (writer, reader) if number == 0 else (reader, writer)
            theirs.append(other)
            copies.append(_Copy(0, mine, close_sink=True) if number == 0 else _Copy(mine, number, is_output=True))
        os.set_blocking(copies[0].sink, False)
        try:
            channel.send(request, theirs)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        for copy in copies[1:]:
            stack.callback(os.close, copy.source)
        if not wants_input:
            os.close(copies[0].sink)
            copies = copies[1:]
        reply, descriptors = channel.receive_reply(START_TIMEOUT_S)
        if not isinstance(reply, control.Started):
            return _not_started(reply, descriptors)
        wake = stack.enter_context(signals_as_bytes(*_FORWARDED))
        return _relay(channel, copies, wake, lambda signum: channel.send(control.Signal(signum)))


def _relay(
    channel: control.Channel,
    copies: list[_Copy],
    wake: int,
    on_signal: Callable[[int], None],
    desk: _Desk | None = None,
) -> Outcome:
    """Copy until the command has ended and its output is drained, or the user left."""
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ, channel)
        selector.register(wake, selectors.EVENT_READ, wake)
        open_copies = list(copies)
        for copy in copies:
            _register(selector, copy)
        outcome: Outcome | None = None
        while outcome is None or any(copy.is_output for copy in open_copies):
            ready = selector.select(_wait_s(outcome, desk))
            if not ready and outcome is not None:
                break  # something inside keeps our pipe open after its parent ended
            for key, _ in ready:
                if isinstance(key.data, _Copy):
                    _step(selector, key, open_copies)
                elif key.data is channel:
                    outcome = _ended(channel)
                    selector.unregister(channel)
                    for copy in open_copies:
                        copy.left = DRAIN_BYTES_MAX
                else:
                    for signum in os.read(wake, 64):
                        on_signal(signum)
            if desk is not None and outcome is None:
                _attend(desk, has_news=bool(ready))
                outcome = _leave(channel, desk) if desk.keys.has_left else None
                if outcome is not None and outcome.has_left:
                    break
                if outcome is not None:
                    selector.unregister(channel)
    return outcome


def _wait_s(outcome: Outcome | None, desk: _Desk | None) -> float | None:
    if outcome is not None:
        return DRAIN_TIMEOUT_S
    if desk is None:
        return None
    waits = [HOLD_S] if desk.keys.is_holding else []
    redraws_in = desk.redraws_in()
    waits += [redraws_in] if redraws_in is not None else []
    return min(waits, default=None)


def _attend(desk: _Desk, *, has_news: bool) -> None:
    """Do what waited for something to happen, or for nothing to happen."""
    if desk.redraws_in() == 0:
        desk.back_at = None
        _copy_size(desk.master)
    elif desk.keys.is_holding and not has_news:
        with contextlib.suppress(OSError):
            os.write(desk.typed.sink, desk.keys.release())


def _leave(channel: control.Channel, desk: _Desk) -> Outcome | None:
    """Tell the session that the user leaves; a command that ended just then has ended. None: it may not be left."""
    with contextlib.suppress(control.ChannelError):
        channel.send(control.Leave(desk.shown.replay()))
    try:
        reply, descriptors = channel.receive_reply(control.SEND_TIMEOUT_S)
    except control.ChannelError:
        return Outcome(_ENDED_WITHOUT_WORD, is_cut_off=True)
    if isinstance(reply, control.Done):
        return Outcome(0, has_left=True)
    if isinstance(reply, control.Failed):
        desk.keys = Keys()
        desk.typed.passing = desk.keys.take
        return None
    return _not_started(reply, descriptors)


def _register(selector: selectors.BaseSelector, copy: _Copy) -> None:
    try:
        if not copy.pending:
            selector.register(copy.source, selectors.EVENT_READ, copy)
            return
    except PermissionError:
        pass  # epoll_ctl(2): a regular file is always ready and cannot be waited for; wait for the sink instead
    selector.register(copy.sink, selectors.EVENT_WRITE, copy)


def _step(selector: selectors.BaseSelector, key: selectors.SelectorKey, open_copies: list[_Copy]) -> None:
    """Copy once, and wait for the side that holds the direction up."""
    copy: _Copy = key.data
    progress = _copy_once(copy)
    waits_for_sink = key.events == selectors.EVENT_WRITE
    if progress is _Progress.DONE:
        selector.unregister(key.fileobj)
        open_copies.remove(copy)
        if copy.close_sink:
            os.close(copy.sink)
    elif progress is _Progress.BLOCKED and not waits_for_sink:
        selector.unregister(key.fileobj)
        selector.register(copy.sink, selectors.EVENT_WRITE, copy)
    elif progress is _Progress.MORE and waits_for_sink:
        selector.unregister(key.fileobj)
        _register(selector, copy)


def _copy_once(copy: _Copy) -> _Progress:
    """Copy what is there."""
    data = copy.pending
    if not data:
        try:
            data = b"" if copy.left == 0 else os.read(copy.source, COPY_BYTES_MAX)
        except BlockingIOError:
            return _Progress.MORE
        except OSError:
            data = b""  # EIO: the last process on the other side of the terminal is gone (pty(7))
        if not data:
            return _Progress.DONE
        if copy.passing is not None:
            data = copy.passing(data)
    try:
        written = os.write(copy.sink, data)
    except BlockingIOError:
        written = 0
    except OSError:
        return _Progress.DONE
    copy.pending = data[written:]
    if copy.left is not None:
        copy.left = max(0, copy.left - written)
    return _Progress.BLOCKED if copy.pending else _Progress.MORE


def _ended(channel: control.Channel) -> Outcome:
    try:
        reply, descriptors = channel.receive_reply(control.SEND_TIMEOUT_S)
    except control.ChannelError:
        return Outcome(_ENDED_WITHOUT_WORD, is_cut_off=True)
    return _not_started(reply, descriptors)


def _not_started(reply: control.Reply, descriptors: list[int]) -> Outcome:
    for descriptor in descriptors:
        os.close(descriptor)
    match reply:
        case control.Ended(status, detail):
            return Outcome(status, detail)
        case control.Failed(message):
            return Outcome(_ENDED_WITHOUT_WORD, message)
        case _:
            return Outcome(_ENDED_WITHOUT_WORD, "the session gave an answer that fits no question")


def _copy_size(master: int, *, narrower: bool = False) -> None:
    """Give the sandbox's terminal the size of the user's.

    The kernel tells a program of its size only when that changes (ioctl_tty(2)), and a full-screen program that was
    left draws itself anew only when told: `narrower` makes a difference that a later call takes back.
    """
    with contextlib.suppress(OSError):
        rows, columns = terminal_size()
        fcntl.ioctl(master, termios.TIOCSWINSZ, _SIZE.pack(rows, max(1, columns - narrower), 0, 0))
