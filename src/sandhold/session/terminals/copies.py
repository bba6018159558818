"""Bytes between a user's descriptors and a command inside, until the command has ended and its output is drained.

A command that only asks a running session comes through here: plain classes, because making dataclasses takes longer
than all the rest of this module.
"""

from __future__ import annotations

import os
import selectors
import signal
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COPY_BYTES_MAX: Final = 64 * 1024  # one pipe's worth (pipe(7))
DRAIN_BYTES_MAX: Final = 1 << 20  # what a pipe can hold (pipe(7)); a program left behind inside writes for ever
DRAIN_TIMEOUT_S: Final = 2.0  # output still in the pipe when the command has ended
ENDED_WITHOUT_WORD: Final = 125


class Outcome(NamedTuple):
    """How a command inside ended. `detail` says why when it could not be started; `is_cut_off` says that its session
    went away, `has_left` that it goes on and the user left it."""

    status: int
    detail: str | None = None
    is_cut_off: bool = False
    has_left: bool = False


CUT_OFF: Final = Outcome(ENDED_WITHOUT_WORD, is_cut_off=True)
NO_ANSWER: Final = Outcome(ENDED_WITHOUT_WORD, "the session gave an answer that fits no question")


class Side(Protocol):
    """What happens beside the bytes: the session's word, the user's signals, and what waits for its time."""

    def fileno(self) -> int:
        """Return the descriptor on which the session says how the command ended."""

    def ended(self) -> Outcome:
        """Read how it ended."""

    def on_signal(self, signum: int) -> None:
        """Do what a signal asks for."""

    def wait_s(self) -> float | None:
        """Return for how long at most to wait for bytes, None for as long as it takes."""

    def attend(self, *, has_news: bool) -> Outcome | None:
        """Do what waited for something to happen, or for nothing to happen; an outcome ends the copying."""


class Copy:
    """One direction: from a descriptor to another. What the sink did not take yet is `pending`.

    What was read goes through `passing`, which may look at it and keep something back. `left` is how many bytes are
    still copied, None for as long as they come.
    """

    __slots__ = ("close_sink", "is_output", "left", "passing", "pending", "sink", "source")

    def __init__(self, source: int, sink: int, *, close_sink: bool = False, is_output: bool = False) -> None:
        self.source = source
        self.sink = sink
        self.close_sink = close_sink
        self.is_output = is_output
        self.pending = b""
        self.left: int | None = None
        self.passing: Callable[[bytes], bytes] | None = None


class _Progress(Enum):
    MORE = "more"
    BLOCKED = "blocked"
    DONE = "done"


def relay(side: Side, copies: list[Copy], wake: int) -> Outcome:
    """Copy until the command has ended and its output is drained, or the user left. `wake` has the user's signals."""
    with selectors.DefaultSelector() as selector:
        selector.register(side, selectors.EVENT_READ, side)
        selector.register(wake, selectors.EVENT_READ, wake)
        open_copies = list(copies)
        for copy in copies:
            _register(selector, copy)
        outcome: Outcome | None = None
        while outcome is None or any(copy.is_output for copy in open_copies):
            ready = selector.select(side.wait_s() if outcome is None else DRAIN_TIMEOUT_S)
            if not ready and outcome is not None:
                break  # something inside keeps our pipe open after its parent ended
            for key, _ in ready:
                if isinstance(key.data, Copy):
                    _step(selector, key, open_copies)
                elif key.data is side:
                    outcome = side.ended()
                    selector.unregister(side)
                    for copy in open_copies:
                        copy.left = DRAIN_BYTES_MAX
                else:
                    for signum in os.read(wake, 64):
                        side.on_signal(signum)
            if outcome is None:
                outcome = side.attend(has_news=bool(ready))
                if outcome is not None and outcome.has_left:
                    break
                if outcome is not None:
                    selector.unregister(side)
    return outcome


@contextmanager
def signals_as_bytes(*signums: signal.Signals) -> Iterator[int]:
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


def _register(selector: selectors.BaseSelector, copy: Copy) -> None:
    try:
        if not copy.pending:
            selector.register(copy.source, selectors.EVENT_READ, copy)
            return
    except PermissionError:
        pass  # epoll_ctl(2): a regular file is always ready and cannot be waited for; wait for the sink instead
    selector.register(copy.sink, selectors.EVENT_WRITE, copy)


def _step(selector: selectors.BaseSelector, key: selectors.SelectorKey, open_copies: list[Copy]) -> None:
    """Copy once, and wait for the side that holds the direction up."""
    copy: Copy = key.data
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


def _copy_once(copy: Copy) -> _Progress:
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
