"""Whose a connection is, asked of the real kernel."""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from sandhold.linux.sock_diag import SocketOwners, open_sock_diag
from sandhold.linux.users import IdRange

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv6Address

ADDRESSES = ("127.0.0.1", "::1")


@pytest.fixture
def link() -> Iterator[socket.socket]:
    """A netlink socket of this process's own network namespace."""
    with open_sock_diag() as made:
        yield made


@pytest.fixture(params=ADDRESSES)
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection over loopback: the client's end and the accepted one."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as listener, socket.socket(family) as client:
        client.connect(listener.getsockname()[:2])
        accepted, _ = listener.accept()
        with accepted:
            yield client, accepted


def headed(accepted: socket.socket) -> tuple[IPv4Address | IPv6Address, int]:
    address, port = accepted.getsockname()[:2]
    return ip_address(address), port


def test_the_user_is_named_as_inside(link: socket.socket, ends: tuple[socket.socket, socket.socket]) -> None:
    """The user of the connecting socket is told by the id inside, whichever line of the map has it."""
    uid = os.getuid()
    users = (IdRange(0, uid + 1, 1000), IdRange(1000, uid, 1), IdRange(1001, uid + 1001, 64535))
    assert SocketOwners(link, users).user_of(ends[1], headed(ends[1])) == 1000


def test_an_id_that_nobody_has_inside(link: socket.socket, ends: tuple[socket.socket, socket.socket]) -> None:
    """A user who is not in the map is not known, and is never passed off as another."""
    for users in ((), (IdRange(0, os.getuid() + 1, 65536),)):
        assert SocketOwners(link, users).user_of(ends[1], headed(ends[1])) is None


def test_a_socket_that_is_gone(link: socket.socket, ends: tuple[socket.socket, socket.socket]) -> None:
    """A connection whose program has closed it is nobody's: the kernel would say root."""
    client, accepted = ends
    owners = SocketOwners(link, (IdRange(0, 0, 65536),))
    client.close()
    assert owners.user_of(accepted, headed(accepted)) is None
    where = headed(accepted)
    accepted.close()
    assert owners.user_of(accepted, where) is None


def test_another_destination(link: socket.socket, ends: tuple[socket.socket, socket.socket]) -> None:
    """A connection that was headed elsewhere is another connection."""
    owners = SocketOwners(link, (IdRange(0, 0, 1 << 31),))
    address, port = headed(ends[1])
    assert owners.user_of(ends[1], (address, port ^ 1)) is None


def test_an_answer_to_another_question(link: socket.socket, ends: tuple[socket.socket, socket.socket]) -> None:
    """An answer that was left over is not taken for the next one's, and the next one is still read."""
    owners = SocketOwners(link, (IdRange(0, os.getuid(), 1),))
    link.send(struct.pack("=IHHII", 16, 20, 1, 7, 0))  # a question that is none: the kernel answers with an error
    assert owners.user_of(ends[1], headed(ends[1])) == 0


def test_no_kernel_to_ask(ends: tuple[socket.socket, socket.socket]) -> None:
    """Whoever does not answer at once is not waited for."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        owners = SocketOwners(here, (IdRange(0, 0, 65536),))
        assert owners.user_of(ends[1], headed(ends[1])) is None
        there.send(b"?")
        assert owners.user_of(ends[1], headed(ends[1])) is None
    assert owners.user_of(ends[1], headed(ends[1])) is None
