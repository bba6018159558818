"""The disk of a machine: made once, found again, and only what it holds on the host's disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.machine.disk import DISK, DISK_BYTES_MAX, open_disk
from sandhold.linux.process import find_program

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(find_program("mkfs.ext4") is None, reason="`mkfs.ext4` (e2fsprogs) is not installed")


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """Whatever stands where the disk should be, no other file of the host's becomes a disk."""
    (tmp_path / "other").write_text("precious")
    (tmp_path / DISK).symlink_to("other")
    with pytest.raises(OSError, match="Too many levels"):
        open_disk(tmp_path)


def test_it_is_made_once_and_takes_little(tmp_path: Path) -> None:
    """The second start finds the disk of the first, and an empty one costs the host a fraction of its size."""
    fd = open_disk(tmp_path)
    assert os.fstat(fd).st_size == DISK_BYTES_MAX
    assert os.fstat(fd).st_blocks * 512 < DISK_BYTES_MAX // 50
    os.pwrite(fd, b"kept", 0)
    os.close(fd)
    again = open_disk(tmp_path)
    assert os.pread(again, 4, 0) == b"kept"
    os.close(again)
