"""The disk that keeps what a machine's sandbox installs and writes: a file that takes only the space it holds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sandhold.linux.process import find_program, run_checked

if TYPE_CHECKING:
    from pathlib import Path

DISK: Final = "disk.ext4"
DISK_BYTES_MAX: Final = 16 << 30  # what a sandbox may write outside its workspaces; the file grows with what it holds
_JOURNAL_MIB: Final = 32  # the default for this size is eight times as much, all of it written in time


def disk_bytes(layer: Path) -> int:
    """Return the size of a layer's disk, or the one it will have."""
    try:
        return (layer / DISK).stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return DISK_BYTES_MAX


def open_disk(layer: Path) -> int:
    """Return the disk of a layer, open for reading and writing; it is made where there is none.

    Raises:
        OSError: when it cannot be made, or something else stands in its place.
    """
    path = layer / DISK
    if not path.exists():
        _make(path)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)


def _make(path: Path) -> None:
    if find_program("mkfs.ext4") is None:
        raise OSError("`mkfs.ext4` is not installed (package `e2fsprogs`)")
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        file.truncate(DISK_BYTES_MAX)
    options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"
    run_checked(
        ["mkfs.ext4", "-q", "-F", "-m", "0", "-J", f"size={_JOURNAL_MIB}", "-E", options, "-L", "sbx", str(new)]
    )
    new.rename(path)
