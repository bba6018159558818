"""What a session answers to whoever starts a command through it, read with no more modules than that takes.

The messages are those of `session/control.py`. Whatever comes instead of one is an end in words.
"""

from __future__ import annotations

import binascii
import json
from typing import TYPE_CHECKING, Final, NamedTuple

from sandhold.session import packets
from sandhold.session.packets import (
    MESSAGE_BYTES_MAX,
    SEND_TIMEOUT_S,
    ChannelError,
    LateError,
    UntakenError,
    close_all,
)
from sandhold.session.terminals.copies import CUT_OFF, ENDED_WITHOUT_WORD, NO_ANSWER, Outcome

if TYPE_CHECKING:
    import socket

START_TIMEOUT_S: Final = 90.0  # a sandbox under memory pressure, or an emulated one, starts a command late
NO_WORD: Final = Outcome(
    ENDED_WITHOUT_WORD,
    f"the session did not say within {START_TIMEOUT_S:g} seconds whether the command runs; it may have started",
)
TOO_LONG: Final = Outcome(
    ENDED_WITHOUT_WORD,
    f"the command and its variables take more than the {MESSAGE_BYTES_MAX >> 10} KiB that a session reads",
)


class Running(NamedTuple):
    """A command that runs. One at a terminal comes with the other end of that, which is the caller's to close, and
    with what it showed when it was left."""

    terminal: int | None
    shown: bytes


def to_start(sock: socket.socket) -> Running | Outcome:
    """Wait until the command that was asked for runs, or how it ended is known.

    A session that took the request and says nothing more may have started the command: nobody else is asked then.

    Raises:
        UntakenError: when the session went away and never read the request.
    """
    try:
        said, descriptors = _next(sock, START_TIMEOUT_S)
    except UntakenError:
        raise
    except LateError:
        return NO_WORD
    except ChannelError:
        return CUT_OFF
    if said.get("type") == "started" and len(descriptors) <= 1:
        return Running(next(iter(descriptors), None), binascii.a2b_base64(str(said.get("shown", ""))))
    close_all(descriptors)
    return _outcome(said)


def ended(sock: socket.socket) -> Outcome:
    """Read how a command that ran has ended."""
    try:
        said, descriptors = _next(sock, SEND_TIMEOUT_S)
    except ChannelError:
        return CUT_OFF
    close_all(descriptors)
    return _outcome(said)


def to_leave(sock: socket.socket) -> Outcome | None:
    """Read whether the user may leave the command; None when not. One that ended just then has ended."""
    try:
        said, descriptors = _next(sock, SEND_TIMEOUT_S)
    except ChannelError:
        return CUT_OFF
    close_all(descriptors)
    match said.get("type"):
        case "done":
            return Outcome(0, has_left=True)
        case "failed":
            return None
    return _outcome(said)


def _next(sock: socket.socket, timeout_s: float) -> tuple[dict[str, object], list[int]]:
    """Return what the session says next, nothing when that is no object, and the descriptors that came along."""
    packet, descriptors = packets.receive(sock, timeout_s)
    try:
        said = json.loads(packet)
    except (ValueError, RecursionError):
        said = None
    return said if isinstance(said, dict) else {}, descriptors


def _outcome(said: dict[str, object]) -> Outcome:
    match said:
        case {"type": "ended", "status": int(status), "detail": str() | None as detail}:
            return Outcome(status, detail)
        case {"type": "failed", "message": str(message)}:
            return Outcome(ENDED_WITHOUT_WORD, message)
    return NO_ANSWER
