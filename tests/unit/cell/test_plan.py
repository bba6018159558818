"""The plan crosses to the launcher whole, and its folders are the ones that were seen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.plan import Folder, Plan, PlannedFile, PlannedMount, PlannedSeed, from_bytes, to_bytes
from sandhold.linux.users import IdRange, Maps

if TYPE_CHECKING:
    from pathlib import Path

MAPS = Maps((IdRange(0, 5, 9),), (IdRange(0, 6, 9), IdRange(9, 1, 1)))
FOLDER = Folder("/some/where", 3, 4)


def _plan(base: int | None, *, is_single: bool) -> Plan:
    return Plan(
        parent=1,
        name="trial",
        base=base,
        is_single=is_single,
        is_host_kind=True,
        template=FOLDER,
        layer=FOLDER,
        inner=MAPS,
        mounts=(
            PlannedMount(FOLDER, is_read_only=True, maps=MAPS),
            PlannedMount(FOLDER, is_read_only=False, maps=None),
        ),
        files=(PlannedFile("/etc/é\udc80", "AA==", 0o600),),
        pids=None,
        tmp_bytes=7,
        template_layers=(FOLDER, FOLDER),
        seeds=(PlannedSeed("/etc/seed", "AA==", "append", ""),),
    )


def test_a_plan_arrives_as_it_was_sent() -> None:
    """Reading what was written gives the same plan."""
    plan = _plan(1_000_000, is_single=False)
    assert from_bytes(to_bytes(plan)) == plan


def test_an_owner_is_named_as_the_outer_namespace_names_it() -> None:
    """Root adds the range's base, an ordinary user's ids are the same, and a single id is the only one."""
    assert _plan(1_000_000, is_single=False).owner(5) == 1_000_005
    assert _plan(None, is_single=False).owner(5) == 5
    assert _plan(None, is_single=True).owner(1000) == 0


def test_a_folder_that_was_replaced_is_not_opened(tmp_path: Path) -> None:
    """What is opened later is the very folder that was seen, or nothing."""
    place = tmp_path / "work"
    place.mkdir()
    seen = Folder.look(str(place))
    fd = seen.open()
    os.close(fd)
    place.rename(tmp_path / "other")
    place.mkdir()
    with pytest.raises(OSError, match="replaced by another folder"):
        seen.open()


def test_a_folder_behind_a_link_is_not_seen(tmp_path: Path) -> None:
    """A link anywhere on the way is an error, as is a file."""
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").write_text("")
    for path in ("link", "link/below", "file"):
        with pytest.raises(OSError, match="openat2"):
            Folder.look(str(tmp_path / path))


def test_a_file_is_the_one_that_was_seen(tmp_path: Path) -> None:
    """A file is looked at and opened as a file, never as a folder, through a link, or when another took its place."""
    place = tmp_path / "config"
    place.write_text("mine")
    seen = Folder.look(str(place), is_file=True)
    os.close(seen.open())
    place.rename(tmp_path / "other")
    place.write_text("another")
    with pytest.raises(OSError, match="replaced by another file"):
        seen.open()
    (tmp_path / "link").symlink_to(place)
    for path, is_file in ((tmp_path, True), (place, False), (tmp_path / "link", True)):
        with pytest.raises(OSError, match=r"regular|directory|symbolic"):
            Folder.look(str(path), is_file=is_file)
