"""The session's socket: how commands on the host talk to the session that owns a running sandbox.

A Unix socket of type SOCK_SEQPACKET in the sandbox's folder on the host, which no sandbox can see. One JSON message a
packet, descriptors beside it (`unix(7)`, SCM_RIGHTS). Only the user who owns the session, and root, may connect.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import TYPE_CHECKING, Final, Self

import msgspec

from sandhold.session import packets
from sandhold.session.packets import DESCRIPTORS_MAX, MESSAGE_BYTES_MAX, SEND_TIMEOUT_S, ChannelError, close_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Also said here, for whoever has a channel: its limits, and how it fails.
__all__ = ["DESCRIPTORS_MAX", "MESSAGE_BYTES_MAX", "SEND_TIMEOUT_S", "ChannelError"]

BACKLOG: Final = 64

_PEER = struct.Struct("iII")  # struct ucred: pid, uid, gid


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Start a command; without `argv`, the agent. Three descriptors come along unless it wants a terminal."""

    argv: tuple[str, ...] | None
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    user: str
    folder: str | None
    wants_terminal: bool
    rows: int = 24
    columns: int = 80


class Signal(msgspec.Struct, frozen=True, tag="signal"):
    """Send a signal to the command started on this connection."""

    signum: int


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """Leave the terminal of the command started on this connection; it goes on. `shown` is the last of its output."""

    shown: bytes


class Keep(msgspec.Struct, frozen=True, tag="keep"):
    """Keep the sandbox running when nobody is attached."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Stop the sandbox; the connection is closed when it has stopped."""

    actor: str


class Apply(msgspec.Struct, frozen=True, tag="apply"):
    """Take over the policy as it is now."""


class Count(msgspec.Struct, frozen=True, tag="count"):
    """Put on record now what the cell dropped so far."""


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Say how the session is."""


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The command runs as process `pid` inside. With a terminal, its other end comes along, and `shown` brings back
    what it showed when it was left."""

    pid: int
    shown: bytes = b""


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The command ended."""

    status: int
    detail: str | None = None


class Applied(msgspec.Struct, frozen=True, tag="applied"):
    """The session runs on this generation now, and cut so many connections for it."""

    generation: int
    cut: int


class State(msgspec.Struct, frozen=True, tag="state"):
    """How the session is. `stays` says that it does not end by itself now: a command runs, or it is kept."""

    session: str
    generation: int
    attached: int
    is_kept: bool
    notes: tuple[str, ...]
    stays: bool


class Done(msgspec.Struct, frozen=True, tag="done"):
    """It is done."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """It could not be done."""

    message: str


Request = Start | Signal | Leave | Keep | Stop | Apply | Count | Ask
Reply = Started | Ended | Applied | State | Done | Failed


class Channel:
    """One connection to a session, from either side; owns the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(SEND_TIMEOUT_S)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self.socket.fileno()

    def send(self, message: Request | Reply, descriptors: Sequence[int] = ()) -> None:
        """Send one message with its descriptors.

        Raises:
            ChannelError: when the other side is gone or does not read.
        """
        packets.send(self.socket, encoded(message), descriptors)

    def receive_request(self) -> tuple[Request, list[int]]:
        """Receive one request and its descriptors, which are the caller's to close.

        Raises:
            ChannelError: when the other side is gone or what it says is no request.
        """
        packet, descriptors = packets.receive(self.socket, SEND_TIMEOUT_S)
        try:
            return msgspec.convert(json.loads(packet), Request), descriptors
        except (ValueError, RecursionError) as error:
            close_all(descriptors)
            raise ChannelError(f"not a request: {error}") from error

    def receive_reply(self, timeout_s: float | None) -> tuple[Reply, list[int]]:
        """Receive one reply and its descriptors, which are the caller's to close.

        Raises:
            ChannelError: when the session is gone, late, or what it says is no reply.
        """
        packet, descriptors = packets.receive(self.socket, timeout_s)
        try:
            return msgspec.convert(json.loads(packet), Reply), descriptors
        except (ValueError, RecursionError) as error:
            close_all(descriptors)
            raise ChannelError(f"not a reply: {error}") from error

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Listener:
    """The session's side of the socket; owns it and its name in the file system."""

    def __init__(self, folder: Path) -> None:
        path = folder / packets.SOCKET_NAME
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._path = path
        previous = os.umask(0o077)
        try:
            with packets.short_name(folder) as name:
                self._socket.bind(name)
        except BaseException:
            self._socket.close()
            raise
        finally:
            os.umask(previous)
        self._socket.listen(BACKLOG)
        self._socket.settimeout(0)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def accept(self) -> Channel | None:
        """Accept one connection; None when there is none, or its user is not ours and not root (SO_PEERCRED)."""
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return None
        _, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid not in (0, os.geteuid()):
            sock.close()
            return None
        return Channel(sock)

    def close(self) -> None:
        """Stop listening and take the name away."""
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(folder: Path) -> Channel | None:
    """Connect to the session whose sandbox has this folder; None when none listens."""
    sock = packets.connect(folder)
    return None if sock is None else Channel(sock)


def encoded(message: Request | Reply) -> bytes:
    """Write a message in ASCII: bytes of argv that are no UTF-8 (PEP 383) come out as they went in."""
    return json.dumps(msgspec.to_builtins(message), separators=(",", ":")).encode("ascii")
