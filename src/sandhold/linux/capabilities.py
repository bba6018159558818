"""The capabilities a process keeps. capabilities(7); numbers from `include/uapi/linux/capability.h`."""

from __future__ import annotations

import ctypes
import errno
import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from sandhold.linux.syscalls import checked, prctl

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_VERSION_3: Final = 0x20080522
_NUMBERS_MAX: Final = 64  # what the two 32-bit words of version 3 can hold

_libc = ctypes.CDLL(None, use_errno=True)


class Capability(IntEnum):
    """What installing packages and `sudo` need; everything else is dropped."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    FOWNER = 3
    FSETID = 4
    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    NET_BIND_SERVICE = 10
    AUDIT_WRITE = 29
    SETFCAP = 31


INSTALLING: Final = frozenset(Capability)


def limit_bounding_set(kept: AbstractSet[Capability]) -> None:
    """Drop every other capability for good, for this process and all it starts. PR_CAPBSET_DROP(2const)."""
    for number in range(_NUMBERS_MAX):
        if number in kept:
            continue
        try:
            prctl(_PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno == errno.EINVAL:  # the first number this kernel does not know
                break
            raise
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def capset(kept: AbstractSet[Capability]) -> None:
    """Keep exactly these, permitted and effective; none can be inherited. capset(2)."""
    bits = sum(1 << number for number in kept)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = struct.pack("=Ii", _VERSION_3, 0)
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    checked(int(_libc.capset(header, data)), "capset")
