"""Private folders, and directory entries that survive a power loss."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600


def make_private_folder(folder: Path) -> None:
    """Make a folder and its missing parents, open to their owner only (XDG Base Directory specification)."""
    missing = [folder, *folder.parents]
    for each in reversed([each for each in missing if not each.is_dir()]):
        each.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def sync_folder(folder: Path) -> None:
    """Put the entries of a folder on disk: syncing a new file does not sync its name (fsync(2))."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
