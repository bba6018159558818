"""The user's end of a command inside: bytes both ways, sizes, signals, and a terminal that is always put back.

With a terminal, the other end of the sandbox's own pseudo-terminal is passed to us and bytes go straight through. With
none, three pipes that we made stand between the user's descriptors and the sandbox, which so never holds one of the
host's files or terminals (`pty(7)`, `termios(3)`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import struct
import sys
import termios
import tty
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from sandhold.session import control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COPY_BYTES_MAX: Final = 64 * 1024  # one pipe's worth (pipe(7))
START_TIMEOUT_S: Final = 30.0  # a sandbox under memory pressure starts a command late; a stuck one never does
DRAIN_BYTES_MAX: Final = 1 << 20  # what a pipe can hold (pipe(7)); a program left behind inside writes for ever
DRAIN_TIMEOUT_S: Final = 2.0  # output still in the pipe when the command has ended

_SIZE = struct.Struct("HHHH")  # struct winsize
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_ENDED_WITHOUT_WORD: Final = 125


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command inside ended. `detail` says why when it could not be started or its session went away."""

    status: int
    detail: str | None = None


class _Progress(Enum):
    MORE = "more"
    BLOCKED = "blocked"
    DONE = "done"


@dataclass(slots=True)
class _Copy:
    """One direction: from a descriptor to another. What the sink did not take yet is `pending`.

    `left` is how many bytes are still copied, None for as long as they come.
    """

    source: int
    sink: int
    close_sink: bool = False
    pending: bytes = b""
    left: int | None = None


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
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, master)
        wake = stack.enter_context(_signals(signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT))
        stack.enter_context(_raw_terminal())

        def on_signal(signum: int) -> None:
            if signum == signal.SIGWINCH:
                _copy_size(master)
            else:
                raise SystemExit(128 + signum)

        _copy_size(master)
        keys = os.dup(master)  # a selector takes each descriptor once, and this one is waited for both ways
        stack.callback(os.close, keys)
        os.set_blocking(keys, False)
        return _relay(channel, [_Copy(0, keys), _Copy(master, 1)], wake, on_signal)


def _on_pipes(channel: control.Channel, request: control.Start, wants_input: bool) -> Outcome:  # noqa: FBT001 - private
    with contextlib.ExitStack() as stack:
        theirs: list[int] = []
        copies: list[_Copy] = []
        for number in (0, 1, 2):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            mine, other = (writer, reader) if number == 0 else (reader, writer)
            theirs.append(other)
            copies.append(_Copy(0, mine, close_sink=True) if number == 0 else _Copy(mine, number))
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
        wake = stack.enter_context(_signals(*_FORWARDED))
        return _relay(channel, copies, wake, lambda signum: channel.send(control.Signal(signum)))


def _relay(channel: control.Channel, copies: list[_Copy], wake: int, on_signal: Callable[[int], None]) -> Outcome:
    """Copy until the command has ended and its output is drained."""
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ, channel)
        selector.register(wake, selectors.EVENT_READ, wake)
        open_copies = [copy for copy in copies if _register(selector, copy)]
        outcome: Outcome | None = None
        while outcome is None or any(copy.sink in (1, 2) for copy in open_copies):
            ready = selector.select(DRAIN_TIMEOUT_S if outcome is not None else None)
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
    return outcome


def _register(selector: selectors.BaseSelector, copy: _Copy) -> bool:
    try:
        selector.register(copy.source, selectors.EVENT_READ, copy)
    except PermissionError:
        # epoll_ctl(2): a regular file is always ready and cannot be waited for; wait for the sink instead.
        selector.register(copy.sink, selectors.EVENT_WRITE, copy)
    return True


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
    try:
        data = copy.pending or (b"" if copy.left == 0 else os.read(copy.source, COPY_BYTES_MAX))
    except BlockingIOError:
        return _Progress.MORE
    except OSError:
        data = b""  # EIO: the last process on the other side of the terminal is gone (pty(7))
    if not data:
        return _Progress.DONE
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
        return Outcome(_ENDED_WITHOUT_WORD, "the sandbox was stopped")
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


def _copy_size(master: int) -> None:
    with contextlib.suppress(OSError):
        rows, columns = terminal_size()
        fcntl.ioctl(master, termios.TIOCSWINSZ, _SIZE.pack(rows, columns, 0, 0))


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Hand every key to the sandbox, and put the terminal back however this ends."""
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)
    try:
        yield
    finally:
        sys.stdout.flush()
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _signals(*signums: signal.Signals) -> Iterator[int]:
    """Turn signals into bytes on a descriptor, each byte a signal's number (`signal.set_wakeup_fd`)."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    previous = {signum: signal.signal(signum, lambda *_: None) for signum in signums}
    previous_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(previous_wakeup)
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        os.close(reader)
        os.close(writer)
