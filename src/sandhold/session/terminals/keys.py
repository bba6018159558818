"""What the user types, on its way in: every byte passes unchanged, but for the two keys that leave a terminal.

`ctrl-p ctrl-q` leaves. A `ctrl-p` alone waits `HOLD_S` for its partner and then goes in. Programs can ask the user's
terminal to spell keys in longer ways; those spellings of the same two keys leave too: the kitty keyboard protocol
(`CSI 112 ; 5 u`, with its releases) and xterm's modifyOtherKeys (`CSI 27 ; 5 ; 112 ~`).
"""

from __future__ import annotations

import re
from typing import Final

HOLD_S: Final = 0.5  # as long as two keys meant together are apart; a program that wants `ctrl-p` gets it this late

# Modifiers count from 1: control is 5, caps lock adds 64 and num lock 128.
_CONTROL: Final = rb"(?:5|69|133|197)"
_KITTY: Final = rb"\x1b\[%d(?::[0-9:]*)?;" + _CONTROL + rb"(?::1)?u"
_FIRST: Final = rb"(?:\x10|" + _KITTY % 112 + rb"|\x1b\[27;5;112~)"
_SECOND: Final = rb"(?:\x11|" + _KITTY % 113 + rb"|\x1b\[27;5;113~)"
_RELEASE: Final = rb"(?:\x1b\[112(?::[0-9:]*)?;[0-9]+:3u)?"
_LEAVE: Final = re.compile(_FIRST + _RELEASE + _SECOND)
_HALF: Final = re.compile(_FIRST + _RELEASE + rb"\Z")


class Keys:
    """Watches one user's keys; `has_left` is true once they were told to leave."""

    def __init__(self) -> None:
        self._held = b""
        self.has_left = False

    @property
    def is_holding(self) -> bool:
        """Whether a first key waits for its second."""
        return bool(self._held)

    def take(self, data: bytes) -> bytes:
        """Return what goes on to the sandbox now; nothing does once the user has left."""
        data, self._held = self._held + data, b""
        leave = _LEAVE.search(data)
        if leave is not None or self.has_left:
            self.has_left = True
            return data[: leave.start()] if leave is not None else b""
        half = _HALF.search(data)
        if half is not None:
            self._held = data[half.start() :]
            return data[: half.start()]
        return data

    def release(self) -> bytes:
        """Return the first key, whose second did not come in time."""
        held, self._held = self._held, b""
        return held
