"""The packets of a session's socket: bytes with descriptors beside them, over a Unix socket in the sandbox's folder.

What they say stands in `session/control.py`. This much needs few modules, so that a command that only asks a running
session starts at once.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MESSAGE_BYTES_MAX: Final = 128 * 1024  # an environment and an argv are the largest things sent
DESCRIPTORS_MAX: Final = 3  # standard input, output and error
SEND_TIMEOUT_S: Final = 5.0  # a peer that does not read for so long is gone
SOCKET_NAME: Final = "session.sock"


class ChannelError(Exception):
    """The other side is gone, late, or said something that is no message."""


class UntakenError(ChannelError):
    """The other side never read what it was sent: nothing came of it, and another may be asked for the same."""


class LateError(ChannelError):
    """No answer came in time; what was asked for may have happened, or may happen yet."""


def connect(folder: str | os.PathLike[str]) -> socket.socket | None:
    """Connect to the session whose sandbox has this folder; None when none listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(SEND_TIMEOUT_S)
    try:
        with short_name(folder) as name:
            sock.connect(name)
    except OSError:
        sock.close()
        return None
    return sock


def send(sock: socket.socket, packet: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one packet with its descriptors.

    Raises:
        UntakenError: when the other side is gone or does not read.
    """
    try:
        sock.settimeout(SEND_TIMEOUT_S)
        socket.send_fds(sock, [packet], list(descriptors))
    except OSError as error:
        raise UntakenError(f"the other side does not read: {error.strerror or error}") from error


def receive(sock: socket.socket, timeout_s: float | None) -> tuple[bytes, list[int]]:
    """Receive one packet and its descriptors, which are the caller's to close.

    Raises:
        UntakenError: when the other side went away without having read what it was sent last.
        LateError: when nothing came in time.
        ChannelError: when the other side is gone, or more came than a message has.
    """
    try:
        sock.settimeout(timeout_s)
        packet, descriptors, flags, is_untaken = _received(sock)
    except TimeoutError:
        raise LateError("no answer in time") from None
    except OSError as error:
        raise ChannelError(f"the other side is gone: {error.strerror}") from error
    if not packet or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(descriptors)
        if not packet and is_untaken:
            raise UntakenError("the other side went away before it read what it was sent")
        raise ChannelError("the other side is gone" if not packet else "the message is too long")
    return packet, descriptors


def _received(sock: socket.socket) -> tuple[bytes, list[int], int, bool]:
    """Return a packet, its descriptors and flags, and whether the other side closed its end with something unread.

    The kernel says that first, once (`unix_release_sock` in net/unix/af_unix.c); what was said before still follows.
    """
    is_untaken = False
    while True:
        try:
            packet, descriptors, flags, _ = socket.recv_fds(
                sock, MESSAGE_BYTES_MAX, DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            if is_untaken:
                raise
            is_untaken = True
        else:
            return packet, descriptors, flags, is_untaken


@contextmanager
def short_name(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Name the socket through its folder's descriptor: `sun_path` holds 107 bytes, a state folder can be deeper."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)


def close_all(descriptors: Sequence[int]) -> None:
    """Close what came along with a packet that nobody takes."""
    for descriptor in descriptors:
        os.close(descriptor)
