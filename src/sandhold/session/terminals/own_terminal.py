"""The user's own terminal while a command inside has it: made raw, paused, and always put back (termios(3))."""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import tty
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandhold.session.terminals.scrollback import Scrollback


class Settings:
    """The user's terminal as it was found, and what was shown on it since."""

    def __init__(self, before: list[Any], output: int, shown: Scrollback) -> None:
        self.before = before
        self.output = output
        self.shown = shown

    def put_back(self) -> None:
        """Rule 2. Nothing here waits for the terminal: it may be gone, or stopped by its user."""
        with contextlib.suppress(OSError):
            os.write(self.output, self.shown.undo())
        with contextlib.suppress(termios.error):
            termios.tcsetattr(0, termios.TCSANOW, self.before)

    def take_again(self) -> None:
        """Undo `put_back()`."""
        with contextlib.suppress(termios.error):
            tty.setraw(0, termios.TCSANOW)
        with contextlib.suppress(OSError):
            os.write(self.output, self.shown.again())


@contextlib.contextmanager
def raw_terminal(output: int, shown: Scrollback) -> Iterator[Settings]:
    """Hand every key to the sandbox, and put the terminal back however this ends."""
    settings = Settings(termios.tcgetattr(0), output, shown)
    try:
        tty.setraw(0, termios.TCSANOW)
        yield settings
    finally:
        settings.put_back()


@contextlib.contextmanager
def own_output() -> Iterator[int]:
    """Open the user's terminal once more: this descriptor can refuse to wait without changing the user's own.

    With a descriptor that waits, a terminal that its user stopped would hold up signals and the way out.
    """
    try:
        output = os.open(os.ttyname(1), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        output = os.dup(1)  # a terminal of another user or mount namespace: it can be used and not opened
    try:
        yield output
    finally:
        os.close(output)


def pause(settings: Settings) -> None:
    """Stop as SIGTSTP asks, with the terminal put back for as long, and go on when told to (`signal(7)`)."""
    settings.put_back()
    os.kill(os.getpid(), signal.SIGSTOP)
    settings.take_again()
