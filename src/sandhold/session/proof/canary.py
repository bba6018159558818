"""A canary on the host: sockets and a file that nobody should be able to reach from inside, and what they heard.

Whoever connects to it or sends to it was heard, with the token or without: nobody else knows its port.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import socket
import tempfile
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from sandhold.linux.process import run_checked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PORT_TRIES: Final = 50  # a port that is free for one address and protocol may be in use for another
BACKLOG: Final = 16  # attempts come one by one
HEARD_BYTES_MAX: Final = 256  # a token and what stands round it
HEARD_MAX: Final = 64  # arrivals that are looked at after one attempt; the first one is an escape already
TOKEN_BYTES: Final = 16


@dataclass(slots=True)
class Canary:
    """The open sockets and the folder. `words` fill in the braces of an attempt; `own4` and `own6` are missing where
    the host has no such address."""

    folder: Path
    token: str
    secret: str
    words: Mapping[str, str]
    streams: list[socket.socket] = field(default_factory=list)
    datagrams: list[socket.socket] = field(default_factory=list)

    @classmethod
    def open(cls, state: Path) -> Self:
        """Open one; its folder lies in `state`, which no sandbox can be given.

        Raises:
            OSError: when no port is free, or the folder cannot be made.
        """
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = _own_addresses()
        folder = Path(tempfile.mkdtemp(prefix="verify-", dir=state))
        token, secret = secrets.token_hex(TOKEN_BYTES), secrets.token_hex(TOKEN_BYTES)
        canary = cls(folder, token, secret, {})
        try:
            (folder / "secret").write_text(secret)
            port = canary._listen(("127.0.0.1", "::1", *own.values()))
            canary._listen_on_paths()
        except BaseException:
            canary.close()
            raise
        canary.words = {
            **own,
            "port": str(port),
            "token": token,
            "folder": str(folder),
            "secret": str(folder / "secret"),
            "socket": str(folder / "s"),
        }
        return canary

    @property
    def port(self) -> int:
        """The port of all its sockets."""
        return int(self.words["port"])

    def heard(self) -> list[str]:
        """Return what came since the last call, without waiting: a sentence each."""
        found = [f"a connection to {_shown(sock)}" for sock in self.streams for _ in _accepted(sock)]
        found += [f"{size} bytes to {_shown(sock)}" for sock in self.datagrams for size in _received(sock)]
        if (written := self.folder / "written").exists():
            written.unlink()
            found.append("a file in a folder of the host")
        return found

    def close(self) -> None:
        """Close every socket and take the folder away."""
        for sock in (*self.streams, *self.datagrams):
            sock.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self, addresses: tuple[str, ...]) -> int:
        """Listen on one port of every address that this host lets us bind, TCP and UDP."""
        for _ in range(PORT_TRIES):
            port = 0
            try:
                for address in addresses:
                    port = self._bind(address, port)
            except OSError:
                self._forget()
                continue
            return port
        raise OSError("no port is free for a canary")

    def _bind(self, address: str, port: int) -> int:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            stream = socket.socket(family, socket.SOCK_STREAM)
            datagram = socket.socket(family, socket.SOCK_DGRAM)
        except OSError:
            return port  # a kernel without IPv6: nobody can be heard there
        self.streams.append(stream)
        self.datagrams.append(datagram)
        stream.bind((address, port))
        stream.listen(BACKLOG)
        bound = int(stream.getsockname()[1])
        datagram.bind((address, bound))
        for sock in (stream, datagram):
            sock.settimeout(0)
        return bound

    def _listen_on_paths(self) -> None:
        for name in (str(self.folder / "s"), f"\0{self.token}"):
            sock = socket.socket(socket.AF_UNIX)
            self.streams.append(sock)
            with contextlib.suppress(OSError):  # a path that is too long for a socket; the control says so
                sock.bind(name)
                sock.listen(BACKLOG)
            sock.settimeout(0)

    def _forget(self) -> None:
        for sock in (*self.streams, *self.datagrams):
            sock.close()
        self.streams.clear()
        self.datagrams.clear()


def _own_addresses() -> dict[str, str]:
    """Return an IPv4 and an IPv6 address of this host that is not its loopback, as far as it has them."""
    listing = json.loads(run_checked(["ip", "-j", "address", "show", "up", "scope", "global"]))
    found: dict[str, str] = {}
    for interface in listing:
        for entry in filter(None, interface.get("addr_info", ())):  # `ip` leaves those out of scope empty
            address = ip_address(entry["local"])
            found.setdefault(f"own{address.version}", str(address))
    return found


def _accepted(sock: socket.socket) -> Iterator[None]:
    for _ in range(HEARD_MAX):
        try:
            sock.accept()[0].close()
        except OSError:  # nobody is left, or nobody ever listened
            return
        yield


def _received(sock: socket.socket) -> Iterator[int]:
    for _ in range(HEARD_MAX):
        try:
            yield len(sock.recv(HEARD_BYTES_MAX))
        except OSError:
            return


def _shown(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return "a Unix socket of the host"
    return f"{sock.getsockname()[0]} over {'TCP' if sock.type == socket.SOCK_STREAM else 'UDP'}"
