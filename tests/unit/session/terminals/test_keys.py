"""The keys that leave a terminal, and every other byte."""

from __future__ import annotations

import pytest

from sandhold.session.terminals.keys import Keys

PASSES = {
    "plain text": b"hello\r",
    "both keys the wrong way round": b"\x11\x10x",
    "the first key and another": b"\x10x\x11",
    "control p by another key": b"\x1b[112;6u\x1b[113;5u",
    "every other byte": bytes(range(0x10)) + bytes(range(0x12, 256)),
}


@pytest.mark.parametrize("typed", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("size", [1, 1000], ids=["a byte at a time", "at once"])
def test_what_passes(typed: bytes, size: int) -> None:
    """What does not leave goes in unchanged, however it is cut."""
    keys = Keys()
    passed = b"".join(keys.take(typed[at : at + size]) for at in range(0, len(typed), size))
    assert not keys.has_left
    assert passed + keys.release() == typed


LEAVES = {
    "at once": (b"ab\x10\x11cd", b"ab"),
    "in kitty's spelling with a release": (b"ab\x1b[112;5u\x1b[112;5:3u\x1b[113;5u", b"ab"),
    "in kitty's spelling with num lock": (b"\x1b[112;133u\x1b[113;133u", b""),
    "in xterm's spelling": (b"\x1b[27;5;112~\x1b[27;5;113~", b""),
}


@pytest.mark.parametrize(("typed", "before"), LEAVES.values(), ids=LEAVES)
def test_what_leaves(typed: bytes, before: bytes) -> None:
    """The two keys leave; what was typed before them goes in, what comes after does not."""
    keys = Keys()
    assert keys.take(typed) == before
    assert keys.has_left
    assert keys.take(b"more") == b""


def test_keys_apart() -> None:
    """The first key waits for the second, and goes in when it is released."""
    keys = Keys()
    assert (keys.take(b"a\x10"), keys.is_holding) == (b"a", True)
    assert keys.take(b"\x11") == b""
    assert keys.has_left
    keys = Keys()
    keys.take(b"\x10")
    assert keys.release() == b"\x10"
    assert keys.take(b"\x11") == b"\x11"
    assert not keys.has_left
