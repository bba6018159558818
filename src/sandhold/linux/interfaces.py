"""A network card of this machine: switched on, given its addresses and its way out. netdevice(7), rtnetlink's elders.

The calls are the old `ioctl` ones, which need no library and no other program. Structures are of 64-bit processors.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Final

NAME_BYTES_MAX: Final = 15

_SIOCADDRT: Final = 0x890B
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCSIFADDR: Final = 0x8916
_SIOCSIFNETMASK: Final = 0x891C
_IFF_UP: Final = 0x1
_RTF_UP: Final = 0x1
_RTF_GATEWAY: Final = 0x2


def switch_on(name: str) -> None:
    """Set `IFF_UP`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", _name(name), 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", _name(name), flags | _IFF_UP))


def add_ipv4(name: str, address: IPv4Address, prefix: int, gateway: IPv4Address) -> None:
    """Give a card its IPv4 address, and make `gateway` on that link the way to everywhere."""
    mask = IPv4Network(f"{address}/{prefix}", strict=False).netmask
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFADDR, struct.pack("16s16s8x", _name(name), _sockaddr(address)))
        fcntl.ioctl(control, _SIOCSIFNETMASK, struct.pack("16s16s8x", _name(name), _sockaddr(mask)))
        anywhere = _sockaddr(IPv4Address(0))
        # struct rtentry: pad1, dst, gateway, genmask, flags, pads, metric, device, mtu, window, irtt
        route = struct.pack(
            "=Q16s16s16sHh4xQ8xh6xQQQH6x",
            0, anywhere, _sockaddr(gateway), anywhere, _RTF_UP | _RTF_GATEWAY, 0, 0, 0, 0, 0, 0, 0,
        )  # fmt: skip
        fcntl.ioctl(control, _SIOCADDRT, route)


def add_ipv6(name: str, address: IPv6Address, prefix: int, gateway: IPv6Address) -> None:
    """Give a card its IPv6 address, and make `gateway` on that link the way to everywhere."""
    index = socket.if_nametoindex(name)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        # struct in6_ifreq: address, prefix, index
        fcntl.ioctl(control, _SIOCSIFADDR, struct.pack("=16sIi", address.packed, prefix, index))
        # struct in6_rtmsg: dst, src, gateway, type, dst_len, src_len, metric, info, flags, ifindex
        route = struct.pack(
            "=16s16s16sIHHI4xQIi", bytes(16), bytes(16), gateway.packed, 0, 0, 0, 1, 0, _RTF_UP | _RTF_GATEWAY, index
        )
        fcntl.ioctl(control, _SIOCADDRT, route)


def _name(name: str) -> bytes:
    encoded = name.encode("ascii")
    assert len(encoded) <= NAME_BYTES_MAX, "the kernel's own limit"
    return encoded


def _sockaddr(address: IPv4Address) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, address.packed)
