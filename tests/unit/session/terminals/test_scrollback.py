"""What a terminal showed last, and the state it was left in."""

from __future__ import annotations

import pytest

from sandhold.session.terminals.scrollback import TAIL_BYTES_MAX, Modes, Scrollback

UNDONE = {
    "nothing for plain text": (b"hello \x1b[31mred\x1b[0m\r\n", b""),
    "nothing for what was put back": (b"\x1b[?1049h\x1b[?25l\x1b[>1u..\x1b[<u\x1b[?25h\x1b[?1049l", b""),
    "the alternate screen": (b"\x1b[?1049h", b"\x1b[?1049l\x1b[0m"),
    "several modes, the last first": (b"\x1b[?1049h\x1b[?1000;1006h", b"\x1b[?1006l\x1b[?1000l\x1b[?1049l\x1b[0m"),
    "a hidden cursor": (b"\x1b[?25l", b"\x1b[?25h\x1b[0m"),
    "key spellings": (b"\x1b[>1u\x1b[>5u\x1b[>4;2m\x1b=", b"\x1b[<2u\x1b[>4;0m\x1b>\x1b[0m"),
    "nothing after a reset": (b"\x1b[?1049h\x1bc", b""),
}


@pytest.mark.parametrize(("shown", "expected"), UNDONE.values(), ids=UNDONE)
@pytest.mark.parametrize("size", [1, 1000], ids=["a byte at a time", "at once"])
def test_modes_are_undone(shown: bytes, expected: bytes, size: int) -> None:
    """What a program left switched on is switched off, however its output was cut."""
    modes = Modes()
    for at in range(0, len(shown), size):
        modes.feed(shown[at : at + size])
    assert modes.undo() == expected


def test_output_is_bounded() -> None:
    """A replay is as long as the limit, begins with the state at its beginning, and ends with the last output."""
    scrollback = Scrollback()
    scrollback.feed(b"\x1b[?1049h\x1b[>1u")
    for number in range(100_000):
        line = b"line %d\r\n" % number
        assert scrollback.feed(line) is line
    replay = scrollback.replay()
    assert replay.startswith(b"\x1b[?1049h\x1b[>1u\nline ")
    assert replay.endswith(b"line 99999\r\n")
    assert len(replay) < TAIL_BYTES_MAX + 100


QUESTIONS = (b"\x1b[6n", b"\x1b[c", b"\x1b[>c", b"\x1b[?u", b"\x1b[?2026$p", b"\x1b]11;?\x07", b"\x1b]52;c;eA==\x07")


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_are_not_asked_again(question: bytes) -> None:
    """A replay holds nothing that the terminal answers: the program would read the answer as keys."""
    scrollback = Scrollback()
    assert scrollback.feed(b"before" + question + b"after") == b"before" + question + b"after"
    assert scrollback.replay() == b"beforeafter"
