"""Control groups on the real kernel, where this user may make them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from sandhold.linux.limits import open_control_group
from sandhold.model.sandbox import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandhold.linux.limits import ControlGroup

LIMITS = Limits(cpus=0.5, memory=64 << 20, pids=16)


@pytest.fixture
def group() -> Iterator[ControlGroup]:
    """Make a group with small limits."""
    made = open_control_group("trial", LIMITS)
    if made is None:
        pytest.skip("this user may not make control groups here")
    yield made
    made.remove()


def test_a_group_takes_its_limits(group: ControlGroup) -> None:
    """Every limit that was asked for can be read back from the kernel."""
    names = {"pids.max", "memory.max", "memory.limit_in_bytes", "cpu.max", "cpu.cfs_quota_us"}
    files = [path for folder in group.folders for path in folder.glob("*.*") if path.name in names]
    texts = {path.name: path.read_text().strip() for path in files}
    wanted = {"pids.max": "16", "memory.max": "67108864", "memory.limit_in_bytes": "67108864"}
    wanted |= {"cpu.max": "50000 100000", "cpu.cfs_quota_us": "50000"}
    assert texts == {name: wanted[name] for name in texts}
    assert len(texts) == len(group.controllers)


def test_a_group_of_a_killed_session_goes_with_the_next(group: ControlGroup) -> None:
    """A group named after a process that has ended is removed; one of a live session stays."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    stale = [folder.with_name(f"trial-{gone.pid}-00000000") for folder in group.folders]
    for folder in stale:
        folder.mkdir(exist_ok=True)
    other = open_control_group("other", LIMITS)
    assert other is not None
    other.remove()
    assert all(folder.exists() for folder in group.folders)
    assert not any(folder.exists() for folder in stale)


def test_removing_twice_is_fine(group: ControlGroup) -> None:
    """A group that is gone needs no removal."""
    group.remove()
    assert not any(folder.exists() for folder in group.folders)
    group.remove()
