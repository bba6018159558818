"""Terminals that their users left while the command goes on: the session holds their other ends and reads them.

Without a reader a command would stop at a full terminal; without the other end it would get SIGHUP (`pty(7)`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandhold.session.terminals.scrollback import Scrollback

if TYPE_CHECKING:
    from sandhold.cell.spec import CommandId

READ_BYTES_MAX: Final = 64 * 1024  # at a time, so that a command that shouts cannot keep the session busy
LEFT_MAX: Final = 64  # each holds a descriptor and up to two screenfuls


@dataclass(slots=True)
class LeftTerminal:
    """One terminal that was left; owns `master`. Nothing is read from it any more once `is_open` is false."""

    command: CommandId
    pid: int
    master: int
    is_agent: bool
    is_open: bool = True
    scrollback: Scrollback = field(default_factory=Scrollback)

    def drain(self) -> None:
        """Read what there is now."""
        try:
            data = os.read(self.master, READ_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # EIO: the last process on the other side is gone (pty(7))
        self.is_open = bool(data)
        self.scrollback.feed(data)
