"""Folders that no sandbox may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sandhold.errors import SbxError
from sandhold.paths import Paths
from sandhold.session.creation import parse_mounts

if TYPE_CHECKING:
    from pathlib import Path


def test_our_own_files_behind_a_link(tmp_path: Path) -> None:
    """A folder that holds sbx's state is refused when the state is reached through a link too."""
    real = tmp_path / "data"
    (real / "state").mkdir(parents=True)
    (tmp_path / "link").symlink_to(real)
    elsewhere = tmp_path / "elsewhere"
    paths = Paths(tmp_path / "link" / "state", elsewhere / "data", elsewhere / "config")
    for folder in (real, real / "state"):
        with pytest.raises(SbxError, match="own files"):
            parse_mounts([str(folder)], paths)
    project = tmp_path / "project"
    project.mkdir()
    assert str(parse_mounts([str(project)], paths)[0].path) == str(project.resolve())
