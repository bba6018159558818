"""What a new sandbox may be called and see."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandhold.errors import SbxError
from sandhold.paths import Paths
from sandhold.session.creation import Wanted, parse_mounts, plan


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


def test_a_sandbox_is_not_called_as_an_agent(tmp_path: Path) -> None:
    """`sbx run shell` means the agent, so no sandbox may have that name."""
    (tmp_path / "project").mkdir()
    wanted = Wanted("shell", (str(tmp_path / "project"),), name="shell")
    with pytest.raises(SbxError, match="name of an agent"):
        plan(wanted, Paths(tmp_path / "s", tmp_path / "d", tmp_path / "c"))


SYSTEM = ("/", "/etc", "/home", "/proc/self", "/sys/kernel", "/dev/shm", "/run")


@pytest.mark.parametrize("folder", SYSTEM)
def test_the_system_is_no_workspace(tmp_path: Path, folder: str) -> None:
    """Folders of the system and everything that the kernel makes up are refused when the sandbox is created."""
    if not Path(folder).is_dir():
        pytest.skip(f"this host has no {folder}")
    with pytest.raises(SbxError, match=r"system|own files"):
        parse_mounts([folder], Paths(tmp_path / "s", tmp_path / "d", tmp_path / "c"))
