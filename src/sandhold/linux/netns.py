"""What a socket of a cell's network namespace knows: where a connection was really headed."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

_SO_ORIGINAL_DST: Final = 80  # linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h
_SOCKADDR_IN_BYTES: Final = 16
_SOCKADDR_IN6_BYTES: Final = 28


def original_destination(accepted: socket.socket) -> tuple[IPv4Address | IPv6Address, int]:
    """Return the address and port that the peer dialled, before the kernel sent the connection to us.

    A connection that was made to our own socket has no entry for another destination; its own address is the answer.
    """
    is_ipv6 = accepted.family == socket.AF_INET6
    try:
        if is_ipv6:
            raw = accepted.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, _SOCKADDR_IN6_BYTES)
        else:
            raw = accepted.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, _SOCKADDR_IN_BYTES)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOPROTOOPT):
            raise
        return _own_address(accepted)
    (port,) = struct.unpack_from("!H", raw, 2)
    if is_ipv6:
        return IPv6Address(raw[8:24]), port
    return IPv4Address(raw[4:8]), port


def _own_address(accepted: socket.socket) -> tuple[IPv4Address | IPv6Address, int]:
    name = accepted.getsockname()
    address = str(name[0]).partition("%")[0]
    if accepted.family == socket.AF_INET6:
        return IPv6Address(address), int(name[1])
    return IPv4Address(address), int(name[1])
