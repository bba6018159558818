"""System calls by name: what they do and how they fail."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from sandhold.linux.syscalls import AT_FDCWD, RESOLVE_NO_SYMLINKS, Machine, openat2, setns

if TYPE_CHECKING:
    from pathlib import Path


def test_a_link_on_the_way_is_refused(tmp_path: Path) -> None:
    """`RESOLVE_NO_SYMLINKS` opens the folder itself and nothing through a link to it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OSError, match="openat2") as refused:
        openat2(AT_FDCWD, str(tmp_path / "link"), os.O_PATH, RESOLVE_NO_SYMLINKS)
    assert refused.value.errno == errno.ELOOP
    fd = openat2(AT_FDCWD, str(tmp_path / "real"), os.O_PATH, RESOLVE_NO_SYMLINKS)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_failure_names_the_call(tmp_path: Path) -> None:
    """An error says which call failed, in the kernel's words."""
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="setns: Invalid argument"):
        setns(fd, 0x40000000)
    os.close(fd)


def test_this_machine_has_a_table() -> None:
    """The processor is one whose calls have been read, or its name is in the error."""
    if os.uname().machine in ("x86_64", "aarch64"):
        assert Machine.here().name == os.uname().machine
    else:
        with pytest.raises(OSError, match=os.uname().machine):
            Machine.here()
