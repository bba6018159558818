"""The first file system of a guest: an archive that the kernel unpacks into memory and starts `/init` from.

The format is cpio's `newc` (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel), written here
because no more than a page of it is needed. Another archive may follow: the kernel unpacks one over the other.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandhold.cell.boot.kernel_modules import Module

ROOT_SERIAL: Final = "sbxroot"
"""The serial number of the disk that holds the root image."""

AGENT_FOLDER: Final = "sbx"
"""Where the archive that follows this one brings the guest agent, as a folder `sandhold`."""

MODULES_MAX: Final = 100  # their numbers have two digits, and names sort as numbers do
_TRAILER: Final = "TRAILER!!!"
_CONSOLE: Final = (
    5,
    1,
)  # Documentation/admin-guide/devices.txt; the kernel gives it to `/init` before anything is there

INIT: Final = f"""#!/bin/sh
# Loads the modules, mounts the root image and hands over to the guest agent, which runs from that image.
b=/bin/busybox

fail() {{
    echo "sbx: the guest cannot start: $1"
    $b reboot -f
}}

$b mount -t proc proc /proc || fail "no /proc"
$b mount -t sysfs sysfs /sys || fail "no /sys"
$b mount -t devtmpfs devtmpfs /dev || fail "no /dev"
for module in /modules/*.ko; do
    $b insmod "$module" || fail "the kernel refuses $module"
done

# The kernel finds disks on its own time: 100 looks, a tenth of a second apart.
disk= looks=0
while [ -z "$disk" ]; do
    for each in /sys/block/vd*; do
        serial=
        [ ! -r "$each/serial" ] || read -r serial <"$each/serial" || true
        [ "$serial" != {ROOT_SERIAL} ] || disk=/dev/${{each##*/}}
    done
    [ -z "$disk" ] || break
    looks=$((looks + 1))
    [ "$looks" -lt 100 ] || fail "no disk with the serial number {ROOT_SERIAL}"
    $b sleep 0.1
done

$b mount -t erofs -o ro "$disk" /pristine || fail "the root image cannot be mounted"
$b mount --bind /{AGENT_FOLDER} /pristine/mnt || fail "the guest agent is missing"
for each in proc sys dev; do
    $b mount --move "/$each" "/pristine/$each" || fail "/$each cannot be moved"
done
exec $b chroot /pristine /usr/bin/python3 -I -S -B -c '
import sys
sys.path.insert(0, "/mnt")
from sandhold.cell.guest.agent import main
main()'
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of an archive: its path without a leading slash, its mode with the type, its content or link target.

    `device` is the number of a device node, major and minor.
    """

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def make_initramfs(busybox: bytes, modules: tuple[Module, ...]) -> bytes:
    """Return the archive that loads these modules in this order and starts the guest agent."""
    assert len(modules) <= MODULES_MAX, "the numbers of the modules have two digits"
    folders = ("bin", "dev", "modules", "pristine", "proc", "sys")
    return make_archive(
        (
            *(Entry(folder, stat.S_IFDIR | 0o755) for folder in folders),
            Entry("bin/busybox", stat.S_IFREG | 0o755, busybox),
            Entry("bin/sh", stat.S_IFLNK | 0o777, b"busybox"),
            Entry("dev/console", stat.S_IFCHR | 0o600, device=_CONSOLE),
            *(
                Entry(f"modules/{number:02}-{module.name}.ko", stat.S_IFREG | 0o644, module.content)
                for number, module in enumerate(modules)
            ),
            Entry("init", stat.S_IFREG | 0o755, INIT.encode()),
        )
    )


def make_archive(entries: Iterable[Entry]) -> bytes:
    """Return a whole archive; every file belongs to root and has no time, so that equal content is equal bytes."""
    parts = bytearray()
    for number, entry in enumerate(entries, start=1):
        parts += _record(entry, number)
    parts += _record(Entry(_TRAILER, 0), 0)
    return bytes(parts)


def _record(entry: Entry, number: int) -> bytes:
    """Return header, name and content, each padded to four bytes."""
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
