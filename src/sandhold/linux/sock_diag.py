"""Who inside a cell made a connection, as the kernel knows it. sock_diag(7).

A netlink socket that was made in a network namespace answers for that namespace, in the user ids of the user namespace
it was made in, wherever it is used later.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from sandhold.linux.users import IdMap

ANSWER_BYTES_MAX: Final = 4096  # one message of 88 bytes and what a newer kernel may add to it
ANSWERS_MAX: Final = 4  # read for one question: its own, and those to questions that were not answered at once
_NETLINK_SOCK_DIAG: Final = 4  # linux/netlink.h
_SOCK_DIAG_BY_FAMILY: Final = 20  # linux/sock_diag.h
_NLM_F_REQUEST: Final = 1
_ANY_STATE: Final = 0xFFFFFFFF
_NO_COOKIE: Final = b"\xff" * 8  # INET_DIAG_NOCOOKIE (linux/inet_diag.h)
# struct nlmsghdr: length, type, flags, sequence, port; struct inet_diag_req_v2: family, protocol, extensions, states.
_REQUEST: Final = struct.Struct("=IHHII BBBxI")
_SOCKET: Final = struct.Struct("!HH16s16s4x8s")  # struct inet_diag_sockid: ports, addresses, any interface, cookie
# struct nlmsghdr, then struct inet_diag_msg: family, state, timer, retransmissions; socket; expiry, both queues, user,
# inode.
_ANSWER: Final = struct.Struct("=IHHII BBBB 48x IIIII")


@dataclass(frozen=True, slots=True)
class SocketOwners:
    """Tells the user of a connection's socket. `link` is the netlink socket, made in the cell's network namespace and
    the outer user namespace; `users` has the ids inside, beside what they are called there."""

    link: socket.socket
    users: IdMap

    def user_of(self, accepted: socket.socket, headed: tuple[IPv4Address | IPv6Address, int], /) -> int | None:
        """Return the id inside of the user whose connection, headed there, was accepted as this one. None when that is
        not known: its socket is gone or was never in this namespace, or the kernel does not answer at once.

        It is the user who made the socket; root inside may have given it to another.
        """
        address, port = headed
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            peer = accepted.getpeername()
            own_port: int = peer[1]
            number = own_port << 16 | port
            question = _REQUEST.pack(
                _REQUEST.size + _SOCKET.size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, number, 0,
                family, socket.IPPROTO_TCP, 0, _ANY_STATE,
            )  # fmt: skip
            its_socket = _SOCKET.pack(own_port, port, socket.inet_pton(family, peer[0]), address.packed, _NO_COOKIE)
            self.link.send(question + its_socket, socket.MSG_DONTWAIT)
            return self._read(number)
        except OSError:
            return None

    def _read(self, number: int) -> int | None:
        for _ in range(ANSWERS_MAX):
            answer = self.link.recv(ANSWER_BYTES_MAX, socket.MSG_DONTWAIT)
            fields = _ANSWER.unpack_from(answer.ljust(_ANSWER.size, b"\0"))
            if fields[3] == number:
                is_owned = fields[1] == _SOCK_DIAG_BY_FAMILY and fields[-1] != 0  # without a file, it is nobody's
                return _inside(self.users, fields[-2]) if is_owned else None
        return None


def open_sock_diag() -> socket.socket:
    """Make the netlink socket that answers for this process's network namespace.

    Raises:
        OSError: when this kernel has none.
    """
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)


def _inside(users: IdMap, outside: int) -> int | None:
    for line in users:
        if line.outside <= outside < line.outside + line.count:
            return line.inside + outside - line.outside
    return None
