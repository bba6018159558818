"""A canary hears whoever comes, on every address and on its sockets in the file system."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from sandhold.session.proof.canary import Canary

if TYPE_CHECKING:
    from pathlib import Path


def test_a_canary_hears_connections_datagrams_and_files(tmp_path: Path) -> None:
    """A connection, a datagram, a Unix socket's caller and a file are each heard once, without any token."""
    with Canary.open(tmp_path) as canary:
        assert canary.heard() == []
        with socket.create_connection(("127.0.0.1", canary.port)), socket.socket(type=socket.SOCK_DGRAM) as datagram:
            datagram.sendto(b"", ("127.0.0.1", canary.port))
            with socket.socket(socket.AF_UNIX) as unix:
                unix.connect(f"\0{canary.token}")
                (canary.folder / "written").touch()
                assert canary.heard() == [
                    "a connection to 127.0.0.1 over TCP",
                    "a connection to a Unix socket of the host",
                    "0 bytes to 127.0.0.1 over UDP",
                    "a file in a folder of the host",
                ]
        assert canary.heard() == []


def test_a_canary_leaves_nothing(tmp_path: Path) -> None:
    """Its folder, with its secret, is gone when it is closed."""
    with Canary.open(tmp_path) as canary:
        assert canary.folder.is_dir()
    assert list(tmp_path.iterdir()) == []
