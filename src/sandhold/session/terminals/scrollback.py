"""The last of what a terminal showed, bounded, and the state that it left the terminal in.

Two things need it: a user who comes back to a terminal that was left gets its last screenful again, and a terminal of
the host gets back what a program changed and could not put back itself (alternate screen, mouse, bracketed paste, key
spellings). Sequences are those of ECMA-48 and of xterm's `ctlseqs`, and the kitty keyboard protocol's.
"""

from __future__ import annotations

import re
from typing import Final

TAIL_BYTES_MAX: Final = 48 * 1024  # a screen of 200 by 60 in true colour; in base64 it fits a message of the session
SEQUENCE_BYTES_MAX: Final = 64  # a longer run of digits is no mode that a terminal knows

_ON_FROM_THE_START: Final = frozenset({b"7", b"25"})  # lines wrap, the cursor shows
_CHANGE: Final = re.compile(
    rb"\x1b\[\?(?P<modes>[0-9;]+)(?P<on>[hl])"
    rb"|\x1b\[>(?P<push>[0-9]*)u"
    rb"|\x1b\[<(?P<pop>[0-9]*)u"
    rb"|\x1b\[>4(?:;(?P<other>[0-9]*))?m"
    rb"|\x1b(?P<keypad>[=>])"
    rb"|(?P<reset>\x1bc|\x1b\[!p)"
)
_UNFINISHED: Final = re.compile(rb"\x1b(?:\[[?<>!]?[0-9;]*)?\Z")
# What a terminal answers to, or does beyond its screen: to be asked twice, it would type the answer into the program.
_QUESTIONS: Final = re.compile(
    rb"\x1b\[[?>=]?[0-9;]*[cn]"
    rb"|\x1b\[\?[0-9;]*u"
    rb"|\x1b\[\??[0-9;]*\$p"
    rb"|\x1b\[>[0-9;]*q"
    rb"|\x1b\[(?:1[1-9]|2[01])t"
    rb"|\x1b\][0-9;]*;\?(?:\x07|\x1b\\)"
    rb"|\x1b\]52;[^\x07\x1b]*(?:\x07|\x1b\\)"
    rb"|\x1bP[$+]q[^\x1b]*\x1b\\"
    rb"|\x07"
)


class Modes:
    """What a stream of output has switched on or off by now."""

    def __init__(self) -> None:
        self._changed: dict[bytes, bool] = {}
        self._pushed: list[bytes] = []
        self._other_keys = False
        self._keypad = False
        self._unfinished = b""

    def feed(self, data: bytes) -> None:
        """Take in output, cut anywhere."""
        data = self._unfinished + data
        for found in _CHANGE.finditer(data):
            self._apply(found)
        rest = _UNFINISHED.search(data[-SEQUENCE_BYTES_MAX:])
        self._unfinished = rest[0] if rest is not None else b""

    def again(self) -> bytes:
        """Return what brings a fresh terminal to this state."""
        said = [b"\x1b[?%s%s" % (mode, b"h" if is_on else b"l") for mode, is_on in self._changed.items()]
        said += [b"\x1b="] * self._keypad
        said += [b"\x1b[>%su" % flags for flags in self._pushed]
        return b"".join(said)

    def undo(self) -> bytes:
        """Return what brings a terminal in this state back to how it began; nothing when it is there."""
        said = [b"\x1b[<%du" % len(self._pushed)] * bool(self._pushed)
        said += [b"\x1b[>4;0m"] * self._other_keys + [b"\x1b>"] * self._keypad
        said += [b"\x1b[?%s%s" % (mode, b"l" if is_on else b"h") for mode, is_on in reversed(self._changed.items())]
        return b"".join(said) + b"\x1b[0m" * bool(said)

    def _apply(self, found: re.Match[bytes]) -> None:
        if found["modes"] is not None:
            for mode in found["modes"].split(b";"):
                self._switch(mode, found["on"] == b"h")
        elif found["push"] is not None:
            self._pushed = [*self._pushed, found["push"]][-16:]  # terminals keep no more of them
        elif found["pop"] is not None:
            del self._pushed[max(0, len(self._pushed) - int(found["pop"][:3] or b"1")) :]
        elif found["keypad"] is not None:
            self._keypad = found["keypad"] == b"="
        elif found["reset"] is not None:
            self._changed, self._pushed, self._other_keys, self._keypad = {}, [], False, False
        else:
            self._other_keys = (found["other"] or b"0") != b"0"

    def _switch(self, mode: bytes, is_on: bool) -> None:  # noqa: FBT001 - private
        self._changed.pop(mode, None)
        if mode and is_on is not (mode in _ON_FROM_THE_START) and len(mode) <= 5:
            self._changed[mode] = is_on


class Scrollback:
    """The tail of one terminal's output, with the state at its beginning and at its end."""

    def __init__(self) -> None:
        self._before = Modes()
        self._now = Modes()
        self._tail = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Take in output and return it unchanged."""
        self._now.feed(data)
        self._tail += data
        if len(self._tail) > 2 * TAIL_BYTES_MAX:
            self._cut()
        return data

    def replay(self) -> bytes:
        """Return what shows it again on a fresh terminal, without the questions that terminals answer."""
        self._cut()
        return self._before.again() + _QUESTIONS.sub(b"", bytes(self._tail))

    def again(self) -> bytes:
        """Return what `undo()` took away."""
        return self._now.again()

    def undo(self) -> bytes:
        """Return what puts back the terminal it was shown on."""
        return self._now.undo()

    def _cut(self) -> None:
        """Keep `TAIL_BYTES_MAX`, from where a line or a sequence begins."""
        surplus = len(self._tail) - TAIL_BYTES_MAX
        if surplus <= 0:
            return
        starts = [at for mark in (b"\n", b"\x1b") if (at := self._tail.find(mark, surplus)) >= 0]
        cut = min(starts, default=surplus)
        self._before.feed(bytes(self._tail[:cut]))
        del self._tail[:cut]
