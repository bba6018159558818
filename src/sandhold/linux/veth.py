"""A cable for a card where no tap device may be made: a pair of cards, one end of which is read as raw frames.

veth(4), packet(7), and for switching off what cards do later `include/uapi/linux/ethtool.h`.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
from typing import Final

from sandhold.linux.process import run_checked
from sandhold.linux.tap import TAP

CABLE: Final = "cable0"

_ETH_P_ALL: Final = 3
_SIOCETHTOOL: Final = 0x8946
# Sums and cuts that a card would make when it sends, one command of the old interface each: checksums, scattered
# buffers, TCP segments, segments of any kind. A reader of raw frames gets what no card will finish.
_SWITCHES: Final = (0x17, 0x19, 0x1F, 0x24)


def open_cable() -> socket.socket:
    """Make the pair in this process's network namespace; returns a socket on which each frame that leaves through the
    card `TAP` is read, and each that is written arrives there.

    Raises:
        OSError: when the kernel has no such cards, or refuses.
    """
    links = f"link add {TAP} type veth peer name {CABLE}\nlink set {CABLE} up promisc on\n"
    run_checked(["ip", "-batch", "-"], stdin=links.encode("ascii"))
    for name in (TAP, CABLE):
        _finish_frames_at_once(name)
    cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    try:
        cable.bind((CABLE, _ETH_P_ALL))
    except OSError:
        cable.close()
        raise
    return cable


def _finish_frames_at_once(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for switch in _SWITCHES:
            value = ctypes.create_string_buffer(struct.pack("=II", switch, 0), 8)
            request = struct.pack("=16sQ16x", name.encode("ascii"), ctypes.addressof(value))
            fcntl.ioctl(control, _SIOCETHTOOL, request)
