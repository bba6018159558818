"""Snapshots as files: whole or not there, found by all that they depend on, copied hole by hole, and not too many."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.boot.boot_files import BootFiles
from sandhold.cell.machine import snapshots
from sandhold.cell.machine.qemu import Acceleration, Shape
from sandhold.linux.process import find_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 64 << 20
SHAPE = Shape(Acceleration.TCG, cpus=1, memory=SIZE, disk=1 << 30, shares=1)


@pytest.fixture
def memory() -> Iterator[int]:
    """Memory of a machine that used a little of it, in the middle."""
    fd = snapshots.new_memory(SIZE)
    os.pwrite(fd, b"kernel", SIZE // 2)
    yield fd
    os.close(fd)


def test_a_machine_gets_a_copy_of_its_own(tmp_path: Path, memory: int) -> None:
    """What one machine writes into its memory is in no other's; all have what was kept, and what was a hole is one."""
    snapshots.keep(tmp_path, "kind", memory, b"devices")
    kept = snapshots.find(tmp_path, "kind")
    assert kept is not None
    one, other = kept.open_memory(SIZE), kept.open_memory(SIZE)
    state = kept.open_state()
    try:
        os.pwrite(one, b"secret", SIZE // 2)
        assert os.pread(other, 6, SIZE // 2) == b"kernel"
        assert os.read(state, 100) == b"devices"
        assert os.fstat(other).st_blocks * 512 < 1 << 20
        assert os.fstat(other).st_size == SIZE
    finally:
        for fd in (one, other, state):
            os.close(fd)


def test_memory_of_another_size_is_refused(tmp_path: Path, memory: int) -> None:
    """A snapshot that was cut short is not used."""
    snapshots.keep(tmp_path, "kind", memory, b"devices")
    os.truncate(tmp_path / snapshots.FOLDER / "kind" / "memory", SIZE // 2)
    kept = snapshots.find(tmp_path, "kind")
    assert kept is not None
    with pytest.raises(OSError, match="another size"):
        kept.open_memory(SIZE)


def test_what_was_not_used_for_longest_goes(tmp_path: Path, memory: int) -> None:
    """One too many costs the one that nobody used; being found is being used, and what a killed command left goes."""
    left = tmp_path / snapshots.FOLDER / ".new-left"
    left.mkdir(parents=True)
    for number in range(snapshots.SNAPSHOTS_MAX):
        snapshots.keep(tmp_path, f"kind{number}", memory, b"")
        os.utime(tmp_path / snapshots.FOLDER / f"kind{number}", (number, number))
    assert snapshots.find(tmp_path, "kind0") is not None
    snapshots.keep(tmp_path, "more", memory, b"")
    names = {path.name for path in (tmp_path / snapshots.FOLDER).iterdir()}
    assert names == {"kind0", "more", *(f"kind{number}" for number in range(2, snapshots.SNAPSHOTS_MAX))}


def test_a_failure_is_remembered_for_a_while(tmp_path: Path) -> None:
    """What could not be kept is not tried at each start: what may pass is tried again soon, what lasts after a day."""
    soon, another_day = snapshots.FAILED_S + 60.0, snapshots.REFUSED_S + 60.0
    assert not snapshots.has_failed(tmp_path, "kind")
    for is_lasting, ago_s, expected in ((False, soon, False), (True, soon, True), (True, another_day, False)):
        snapshots.give_up(tmp_path, "kind", "no room", is_lasting=is_lasting)
        assert snapshots.has_failed(tmp_path, "kind")
        for note in (tmp_path / snapshots.FOLDER).iterdir():
            os.utime(note, (time.time() - ago_s,) * 2)
        assert snapshots.has_failed(tmp_path, "kind") is expected


@pytest.mark.skipif(find_program("qemu-system-x86_64") is None, reason="QEMU (`qemu-system-x86`) is not installed")
def test_a_name_says_all_that_it_depends_on(tmp_path: Path) -> None:
    """Another size, processor count, disk, number of folders, acceleration or boot file is another snapshot."""
    boot = BootFiles(tmp_path, tmp_path, tmp_path, "key")
    others = (
        replace(SHAPE, acceleration=Acceleration.KVM),
        replace(SHAPE, cpus=2),
        replace(SHAPE, memory=SIZE * 2),
        replace(SHAPE, disk=2 << 30),
        replace(SHAPE, shares=2),
    )
    names = [snapshots.name_of(boot, shape) for shape in (SHAPE, *others)]
    names.append(snapshots.name_of(replace(boot, key="other"), SHAPE))
    assert len(set(names)) == len(names)
    assert snapshots.name_of(boot, SHAPE) == names[0]


def test_what_no_template_boots_from_goes(tmp_path: Path, memory: int) -> None:
    """With a template go the snapshots of its machines, and nothing else."""
    folder = tmp_path / snapshots.FOLDER
    for name in ("gone-1", "there-1"):
        snapshots.keep(tmp_path, name, memory, b"")
    snapshots.give_up(tmp_path, "gone-2", "no room", is_lasting=False)
    snapshots.give_up(tmp_path, "gone-3", "no such machine", is_lasting=True)
    (folder / ".lock").touch()
    snapshots.remove_unused(tmp_path, frozenset({"there"}))
    assert {path.name for path in folder.iterdir()} == {"there-1", ".lock"}
    snapshots.remove_unused(tmp_path / "nowhere", frozenset())
