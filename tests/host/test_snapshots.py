"""Machines that start from a snapshot: quick, each its own, and never worse off for a snapshot that is broken."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.boot.boot_files import boot_files
from sandhold.cell.images.templates import find_template
from sandhold.cell.machine import snapshots
from sandhold.cell.machine.acceleration import look
from sandhold.cell.machine.parts import shape_of
from sandhold.cell.machine.qemu import Acceleration, Board
from sandhold.cell.spec import CellSpec
from sandhold.linux.process import spawn_module
from sandhold.model.sandbox import Isolation, Limits, Mount
from sandhold.session.creation import limits
from sandhold.session.machines import Kind, kind_of, open_quickly
from tests.installation import wait_until
from tests.isolation import microvm_lacks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.installation import Installation

pytestmark = pytest.mark.skipif(microvm_lacks() != "", reason=microvm_lacks() or "nothing is missing")

PROCESSORS_TOO_MANY = 1000
FILLED_BYTES = 200 << 20
GIVEN_BACK_S = 120.0
CLOCK_S_MAX = 5.0  # what an emulated command on a busy host may be late
SELF = """
head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '
cat /proc/sys/kernel/random/boot_id
cat /proc/sys/kernel/hostname
python3 -c 'import os, uuid; print(os.getrandom(16).hex(), uuid.uuid4())'
date +%s.%N
"""


@pytest.fixture
def spec(sbx: Installation, tmp_path: Path) -> CellSpec:
    """What a small machine is made from."""
    sbx.ok("template", "build", "--microvm", "debian")
    template = find_template(sbx.data / "sandhold" / "templates", "debian")
    return CellSpec("trial", template, tmp_path / "layer", (), (), Limits(1, 512 << 20, 1000), slot=9)


@pytest.fixture
def kind(sbx: Installation, spec: CellSpec, tmp_path: Path) -> Kind:
    """A kind of machine, emulated, of which no snapshot has been made."""
    boot = boot_files(sbx.data / "sandhold" / "vm", spec.template, lambda *_: None)
    return kind_of(tmp_path / "vm", boot, shape_of(spec, Acceleration.TCG))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that a snapshot does not fit on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def machine_of(sbx: Installation, name: str) -> Path:
    """Return the process, below `/proc`, that is the machine of a running sandbox."""
    marker = json.loads((sbx.state / "sandboxes" / name / "session.json").read_text())
    left, machines = [int(marker["pid"])], []
    while left:
        process = Path("/proc", str(left.pop()))
        if (process / "cmdline").read_bytes().partition(b"\0")[0].endswith(b"qemu-system-x86_64"):
            machines.append(process)
        for task in (process / "task").iterdir():
            left += map(int, (task / "children").read_text().split())
    assert len(machines) == 1
    return machines[0]


def is_restored(sbx: Installation, name: str) -> bool:
    """Whether the machine of a running sandbox did not boot."""
    return b"-incoming" in (machine_of(sbx, name) / "cmdline").read_bytes().split(b"\0")


def resident_bytes(sbx: Installation, name: str) -> int:
    """Return how much memory the machine of a running sandbox holds."""
    lines = (machine_of(sbx, name) / "status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


def test_two_machines_from_one_snapshot_are_two(sbx: Installation, project: Path) -> None:
    """Both come from the same memory, yet nothing that must be one's own is the other's, and both know the time."""
    selves = []
    for name in ("one", "two"):
        words = ("create", "--isolation", "microvm", "--memory", "512m", "--cpus", "1", "--name", name, "shell", ".")
        sbx.ok(*words, folder=project)
        sbx.ok("run", "-d", name)
        asked = time.time()
        *secret, host, random, clock = sbx.ok("exec", name, "sh", "-c", SELF).splitlines()
        assert abs(float(clock) - time.time()) < CLOCK_S_MAX + time.time() - asked
        assert is_restored(sbx, name)
        selves.append((*secret, host, *random.split()))
    assert not set(selves[0]) & set(selves[1])
    assert [own[2] for own in selves] == ["one", "two"]
    sbx.ok("exec", "-u", "root", "one", "sh", "-c", "echo kept > /opt/kept")
    sbx.ok("stop", "one")
    assert sbx.ok("exec", "one", "cat", "/opt/kept", "hello.txt") == "kept\nhello from the host\n"


def test_the_usual_snapshot_can_be_made_beforehand(sbx: Installation, project: Path) -> None:
    """What `sbx template build --microvm` makes is what a sandbox starts from that was created without limits."""
    sbx.ok("template", "build", "--microvm", "debian")
    vm = sbx.data / "sandhold" / "vm"
    template = find_template(sbx.data / "sandhold" / "templates", "debian")
    mounts = (Mount(PurePosixPath(project), is_read_only=False),)
    spec = CellSpec("lab", template, sbx.home / "layer", mounts, (), limits(kind=Isolation.MICROVM), slot=9)
    kind = kind_of(vm, boot_files(vm, template, lambda *_: None), shape_of(spec, look(vm).acceleration))
    assert snapshots.find(vm, kind.name) is not None


def test_a_machine_gives_back_what_its_programs_used(sbx: Installation, project: Path) -> None:
    """Memory that a program filled is the host's again when the program has ended, without anything being stopped."""
    words = ("create", "--isolation", "microvm", "--memory", "512m", "--cpus", "1", "--name", "lab", "shell", ".")
    sbx.ok(*words, folder=project)
    sbx.ok("run", "-d", "lab")
    before = resident_bytes(sbx, "lab")
    script = f"x = bytearray(b'x') * {FILLED_BYTES}; print(len(x), flush=True); input()"
    with subprocess.Popen(
        sbx.argv("exec", "-i", "lab", "python3", "-c", script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == f"{FILLED_BYTES}\n"
        assert resident_bytes(sbx, "lab") > before + FILLED_BYTES * 3 // 4
        program.communicate("\n", timeout=GIVEN_BACK_S)
    wait_until(lambda: resident_bytes(sbx, "lab") < before + FILLED_BYTES // 4, "the host has it back", GIVEN_BACK_S)


def _cut(folder: Path) -> None:
    os.truncate(folder / "memory", 1 << 20)


def _forget(folder: Path) -> None:
    size = (folder / "memory").stat().st_size
    os.truncate(folder / "memory", 0)
    os.truncate(folder / "memory", size)


def _cut_state(folder: Path) -> None:
    os.truncate(folder / "state", 1000)


def _overwrite_state(folder: Path) -> None:
    (folder / "state").write_bytes(b"what no QEMU wrote" * 1000)


BREAKAGES: dict[str, Callable[[Path], None]] = {
    "its memory is cut short": _cut,
    "its state is cut short": _cut_state,
    "its state is nothing of QEMU's": _overwrite_state,
    "its memory is empty": _forget,
}


@pytest.mark.long
@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES)
def test_a_broken_snapshot_is_nobodys_error(kind: Kind, spec: CellSpec, breakage: Callable[[Path], None]) -> None:
    """The machine boots all the same, the broken snapshot is gone, and what is made next is whole."""
    said: list[str] = []
    open_quickly(kind, spec, spawn_module, said.append).kill()
    assert said == []
    folder = kind.vm / snapshots.FOLDER / kind.name
    breakage(folder)
    open_quickly(kind, spec, spawn_module, said.append).kill()
    assert len(said) == 1
    assert "cannot be used" in said[0]
    assert not folder.exists()
    open_quickly(kind, spec, spawn_module, said.append).kill()
    assert (folder.is_dir(), len(said)) == (True, 1)


@pytest.mark.long
def test_where_the_least_machine_does_not_start_the_other_is_had(kind: Kind, spec: CellSpec) -> None:
    """A host whose QEMU has no such machine, or does not boot one, has the one that every QEMU can be."""
    snapshots.give_up(kind.vm, kind.name, "unsupported machine type", is_lasting=True)
    with open_quickly(kind, spec, spawn_module, lambda _: None) as cell:
        assert cell.fileno() >= 0
    other = kind_of(kind.vm, kind.boot, replace(kind.shape, board=Board.Q35))
    assert snapshots.find(other.vm, other.name) is not None
    assert snapshots.find(kind.vm, kind.name) is None


@pytest.mark.long
def test_a_machine_that_qemu_refuses_is_not_asked_for_again(kind: Kind, spec: CellSpec) -> None:
    """What QEMU cannot be, with more processors than it has room for, is noted as lasting for each of its machines."""
    many = kind_of(kind.vm, kind.boot, replace(kind.shape, cpus=PROCESSORS_TOO_MANY))
    said: list[str] = []
    with pytest.raises(OSError, match="Invalid SMP CPUs"):
        open_quickly(many, spec, spawn_module, said.append)
    assert [line for line in said if "no snapshot can be made" in line] == said
    notes = [path.suffix for path in (kind.vm / snapshots.FOLDER).iterdir() if not path.name.startswith(".")]
    assert notes == [".refused"] * len(Board)
    assert snapshots.has_failed(many.vm, many.name)


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a small file system")
def test_a_disk_that_was_full_is_tried_again_soon(kind: Kind, spec: CellSpec, small_disk: Path) -> None:
    """A machine that could not be kept for want of room boots, and the least machine is not given up for that."""
    full = kind_of(small_disk, kind.boot, kind.shape)
    said: list[str] = []
    open_quickly(full, spec, spawn_module, said.append).kill()
    assert [line for line in said if "No space left" in line] == said != []
    assert list((small_disk / snapshots.FOLDER).glob("*.refused")) == []
    assert snapshots.has_failed(full.vm, full.name)
    subprocess.run(["mount", "-o", "remount,size=1g", small_disk], check=True)
    for note in (small_disk / snapshots.FOLDER).glob("*.failed"):
        os.utime(note, (time.time() - snapshots.FAILED_S - 1,) * 2)
    open_quickly(full, spec, spawn_module, said.append).kill()
    assert snapshots.find(full.vm, full.name) is not None


@pytest.mark.long
def test_what_a_machine_does_stays_out_of_the_snapshot(kind: Kind, spec: CellSpec) -> None:
    """Neither of its files changes by what is started from it."""
    open_quickly(kind, spec, spawn_module, lambda _: None).kill()
    folder = kind.vm / snapshots.FOLDER / kind.name

    def look() -> list[tuple[str, int, bytes]]:
        return [(path.name, path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.iterdir())]

    before = look()
    open_quickly(kind, spec, spawn_module, lambda _: None).kill()
    assert look() == before
