"""A tap device: a network card whose cable is a descriptor. Documentation/networking/tuntap.rst of the kernel."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

TAP: Final = "tap0"

_TUNSETIFF: Final = 0x400454CA
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000  # frames carry what the card has left undone, so that large ones need not be cut


def open_tap() -> int:
    """Make the device in this process's network namespace and return its cable; the device goes when that is closed.

    Raises:
        OSError: when this host has no `/dev/net/tun`, or not for this user.
    """
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"`/dev/net/tun` cannot be opened: {error.strerror}") from None
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", TAP.encode("ascii"), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
    except OSError:
        os.close(fd)
        raise
    return fd
