"""Private folders."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sandhold.store.folders import make_private_folder, sync_folder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777 & ~0o700])
def test_every_made_folder_is_private(tmp_path: Path, umask: int) -> None:
    """A folder and each parent made for it are 0700; one that was there keeps its mode."""
    tmp_path.chmod(0o755)
    before = os.umask(umask)
    try:
        make_private_folder(tmp_path / "a" / "b" / "c")
        make_private_folder(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    folders = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"]
    assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o755, 0o700, 0o700, 0o700]


def test_file_in_the_way(tmp_path: Path) -> None:
    """A file where a folder belongs is an error."""
    (tmp_path / "a").write_text("")
    with pytest.raises(FileExistsError):
        make_private_folder(tmp_path / "a")


def test_sync_needs_a_folder(tmp_path: Path) -> None:
    """Only a folder can be synced, and one that is there can."""
    sync_folder(tmp_path)
    (tmp_path / "a").write_text("")
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "a")
