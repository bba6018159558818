"""The session's way to the installation's authority: its certificate, and never its key.

The key is read by a process of its own, which ends at once: a session has no use for it, and the libraries that read
keys would be a third of what a session weighs.
"""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING, Final, Self

from sandhold.errors import EXIT_NOT_HELD, SbxError

if TYPE_CHECKING:
    from pathlib import Path

    from sandhold.linux.process import Child, Spawn

AUTHORITY_PROGRAM: Final = "sandhold.session.children.authority_program"
LOADING_TIMEOUT_S: Final = 30.0  # takes 50 ms; a loaded machine gets patience, a stuck one an error
MESSAGE_BYTES_MAX: Final = 64 * 1024  # a certificate has 1 KB


class AuthorityCheck:
    """Makes sure of the authority in a folder, beside whatever else a start does."""

    def __init__(self, child: Child, link: socket.socket, folder: Path) -> None:
        self._child = child
        self._link = link
        self._folder = folder
        self._certificate: bytes | None = None

    @classmethod
    def start(cls, spawn: Spawn, folder: Path) -> Self:
        """Start to make sure of the authority in `folder`, which is made when there is none.

        Raises:
            OSError: when no process can be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            ours.settimeout(LOADING_TIMEOUT_S)
            ours.send(json.dumps({"folder": str(folder)}).encode())
            with theirs:
                child = spawn(AUTHORITY_PROGRAM, [theirs.fileno()])
            undo.pop_all()
        return cls(child, ours, folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()
        self._child.kill()
        self._child.wait(LOADING_TIMEOUT_S)

    def certificate(self) -> bytes:
        """Wait until the authority is known to be usable, and return its certificate as PEM.

        Raises:
            SbxError: when what is there cannot be used, or there is none and none can be made.
        """
        if self._certificate is None:
            self._certificate = self._receive()
        return self._certificate

    def confirm(self, expected: bytes) -> None:
        """Wait until the authority is known to be usable, with the certificate that was read where it lies, and the
        process that knows has ended.

        Raises:
            SbxError: as `certificate` does, and when it has another one by now.
        """
        if self.certificate() != expected:
            raise SbxError(
                f"the certificate authority in `{self._folder}` was replaced while a sandbox started",
                hint="start it again",
                status=EXIT_NOT_HELD,
            )
        self._link.close()
        self._child.wait(LOADING_TIMEOUT_S)

    def _receive(self) -> bytes:
        try:
            said = json.loads(self._link.recv(MESSAGE_BYTES_MAX))
            if "certificate" in said:
                return str(said["certificate"]).encode("ascii")
            message, hint = str(said["failed"]), said["hint"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            message, hint = f"the certificate authority in `{self._folder}` cannot be read: {error}", None
        raise SbxError(message, hint=hint, status=EXIT_NOT_HELD)
