"""The sandbox's own disk inside a machine: mounted, and mended first where it is damaged.

It is mended in the guest, by the template's own `e2fsck`: what is on that disk is the guest's, and the host reads
none of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from sandhold.cell.machine.plan import LAYER_SERIAL
from sandhold.linux.mounts import NODEV, new_filesystem
from sandhold.linux.process import run

CHECK_S_MAX: Final = 200.0  # of the guest's time to be ready; a damaged journal of an emulated machine takes ten
MENDED: Final = "the disk of this sandbox was damaged, and was mended; look at what was written last"
_DAMAGE: Final = frozenset({errno.EINVAL, errno.EUCLEAN, errno.EIO, errno.ENXIO})
_CANNOT_MEND: Final = 4  # and above: "file system errors left uncorrected", e2fsck(8)


def mount_layer_disk() -> tuple[int, str]:
    """Return the disk's file system, detached, and what had to be done first, in words; empty when it was whole.

    Raises:
        OSError: when it cannot be mounted, mended or not.
    """
    device = f"/dev/{disk(LAYER_SERIAL)}"
    options = {"source": device, "discard": None}
    try:
        return new_filesystem("ext4", options, NODEV), ""
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise
        _mend(device, error)
    return new_filesystem("ext4", options, NODEV), MENDED


def _mend(device: str, damage: OSError) -> None:
    try:
        done = run(["e2fsck", "-f", "-y", device], timeout_s=CHECK_S_MAX)
    except OSError as error:
        raise OSError(f"the disk of this sandbox is damaged ({damage.strerror}), and not mended: {error}") from error
    if done.status < 0 or done.status >= _CANNOT_MEND:
        raise OSError(f"the disk of this sandbox is damaged beyond what `e2fsck` can mend ({damage.strerror})")


def disk(serial: str) -> str:
    """Return the name of the block device with this serial number; their order is the machine's own business.

    Raises:
        OSError: when there is none.
    """
    for name in os.listdir("/sys/block"):  # noqa: PTH208  the guest's start imports no `pathlib` for this
        with contextlib.suppress(OSError), open(f"/sys/block/{name}/serial", "rb") as file:  # noqa: PTH123  as above
            if file.read(64).strip() == serial.encode("ascii"):
                return name
    raise OSError(f"the machine has no disk called `{serial}`")
