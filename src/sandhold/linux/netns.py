"""What a socket of a cell's network namespace knows: where a connection was headed, which interfaces there are."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SO_ORIGINAL_DST: Final = 80  # linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h
_SOCKADDR_IN_BYTES: Final = 16
_SOCKADDR_IN6_BYTES: Final = 28

DUMP_BYTES_MAX: Final = 1 << 16  # of one read of a dump; the kernel writes 8 to 32 KiB at once
DUMP_READS_MAX: Final = 256  # a namespace with thousands of interfaces; ours has one
DUMP_TIMEOUT_S: Final = 5.0  # the kernel has answered before the request returns
_NLMSG: Final = struct.Struct("=IHHII")  # struct nlmsghdr (linux/netlink.h): length, type, flags, sequence, port
_IFINFOMSG: Final = struct.Struct("=BxHiII")  # struct ifinfomsg (linux/rtnetlink.h)
_RTATTR: Final = struct.Struct("=HH")  # struct rtattr: length, type
_RTM_NEWLINK: Final = 16
_RTM_GETLINK: Final = 18
_NLMSG_DONE: Final = 3
_DUMP_REQUEST: Final = 0x0301  # NLM_F_REQUEST | NLM_F_DUMP
_IFLA_IFNAME: Final = 3


def original_destination(accepted: socket.socket) -> tuple[IPv4Address | IPv6Address, int]:
    """Return the address and port that the peer dialled, before the kernel sent the connection to us.

    A connection that was made to our own socket has no entry for another destination; its own address is the answer.
    """
    own = accepted.getsockname()
    is_ipv6 = len(own) > 2  # with flow and scope; `accepted.family` is a search in an enumeration
    try:
        if is_ipv6:
            raw = accepted.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, _SOCKADDR_IN6_BYTES)
        else:
            raw = accepted.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, _SOCKADDR_IN_BYTES)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOPROTOOPT):
            raise
        family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        packed = socket.inet_pton(family, own[0].partition("%")[0])
        return IPv6Address(packed) if is_ipv6 else IPv4Address(packed), own[1]
    (port,) = struct.unpack_from("!H", raw, 2)
    if is_ipv6:
        return IPv6Address(raw[8:24]), port
    return IPv4Address(raw[4:8]), port


def interface_names(route: socket.socket) -> tuple[str, ...]:
    """Return the names of all interfaces of the namespace in which this rtnetlink(7) socket was made.

    Raises:
        OSError: when the kernel does not answer, or answers with something else.
    """
    route.settimeout(DUMP_TIMEOUT_S)
    request = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    route.send(_NLMSG.pack(_NLMSG.size + len(request), _RTM_GETLINK, _DUMP_REQUEST, 1, 0) + request)
    names: list[str] = []
    for _ in range(DUMP_READS_MAX):
        for kind, payload in _messages(route.recv(DUMP_BYTES_MAX)):
            if kind == _NLMSG_DONE:
                return tuple(names)
            if kind != _RTM_NEWLINK:
                raise OSError(f"the kernel answered message {kind} when asked for its interfaces")
            names.append(_interface_name(payload))
    raise OSError("the kernel names interfaces without end")


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _NLMSG.size <= len(data):
        length, kind, _, _, _ = _NLMSG.unpack_from(data, at)
        if length < _NLMSG.size:
            raise OSError("the kernel's answer has a message without a length")
        yield kind, data[at + _NLMSG.size : at + length]
        at += (length + 3) & ~3  # NLMSG_ALIGN


def _interface_name(payload: bytes) -> str:
    at = _IFINFOMSG.size
    while at + _RTATTR.size <= len(payload):
        length, kind = _RTATTR.unpack_from(payload, at)
        if length < _RTATTR.size:
            break
        if kind == _IFLA_IFNAME:
            return payload[at + _RTATTR.size : at + length].rstrip(b"\0").decode("utf-8", "backslashreplace")
        at += (length + 3) & ~3  # RTA_ALIGN
    raise OSError("the kernel named an interface without a name")
