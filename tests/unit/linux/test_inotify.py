"""Being told that something appeared in a folder."""

from __future__ import annotations

import select
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from sandhold.linux.inotify import Appearances

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 20.0


def test_what_appears_is_told_once(tmp_path: Path) -> None:
    """A watch ends with the first thing that is made or moved there; whoever watches again hears of the next."""
    with closing(Appearances.open()) as appearances:
        appearances.watch(str(tmp_path))
        assert not appearances.told()
        (tmp_path / "one").touch()
        assert select.select([appearances], [], [], PATIENCE_S)[0]
        assert appearances.told()
        (tmp_path / "two").touch()
        assert not appearances.told()
        appearances.watch(str(tmp_path))
        (tmp_path / "one").rename(tmp_path / "two")
        assert appearances.told()


def test_what_goes_or_changes_is_not_told(tmp_path: Path) -> None:
    """Reading, writing and removing are no appearance."""
    (tmp_path / "one").write_text("1")
    with closing(Appearances.open()) as appearances:
        appearances.watch(str(tmp_path))
        (tmp_path / "one").write_text("2")
        (tmp_path / "one").unlink()
        assert not appearances.told()


def test_what_cannot_be_watched(tmp_path: Path) -> None:
    """A file, a link and nothing are no folders."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    with closing(Appearances.open()) as appearances:
        for name in ("file", "link", "nothing"):
            with pytest.raises(OSError, match="inotify_add_watch"):
                appearances.watch(str(tmp_path / name))
