"""Snapshots of machines that wait for their first plan, kept beside what they were booted from.

Rules:

1. A snapshot is a folder, whole or not there: it is written beside its place, put on disk and renamed.
2. Its name is a digest of everything that it depends on, so one of another QEMU, kernel, image, agent or shape is never
   found. It is never changed.
3. No machine has a file of it: a machine gets a copy of its own in memory. What one machine does to its memory is in no
   other.
4. At most `SNAPSHOTS_MAX` are kept, of at most `BYTES_MAX` each; those that were not used for longest go first.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from sandhold.cell.machine.acceleration import surroundings
from sandhold.cell.machine.code import agent_archive
from sandhold.cell.machine.plan import GuestMount
from sandhold.cell.machine.qemu import Beginning, command_line, host_clock

if TYPE_CHECKING:
    from pathlib import Path

    from sandhold.cell.boot.boot_files import BootFiles
    from sandhold.cell.machine.qemu import Shape

FORMAT: Final = 1
"""Changes when the same machine has to give another snapshot."""
FOLDER: Final = "snapshots"
SNAPSHOTS_MAX: Final = 8  # a template of each agent's, and some sizes
BYTES_MAX: Final = 1 << 30  # a guest that has just booted uses a quarter
STATE_BYTES_MAX: Final = 16 << 20  # of its devices: 0.3 MB
REFUSED_S: Final = 86400.0  # a day: QEMU itself said no, and says so again unless somebody changes the host
FAILED_S: Final = 600.0  # ten minutes: a full disk, a busy host; one that hangs costs two minutes each time
COPY_BYTES: Final = 8 << 20  # at once
EMPTY_FOLDER: Final = "/tmp"  # noqa: S108  # the cell's own; what the shares of a machine that is kept lead to
_MEMORY: Final = "memory"
_STATE: Final = "state"
_REFUSED: Final = ".refused"
_FAILED: Final = ".failed"
_PARTIAL: Final = ".new-"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One that is there: the memory of a machine and what its devices were, as files."""

    folder: Path

    def open_memory(self, size: int) -> int:
        """Return a copy of the memory for one machine, as a descriptor.

        Raises:
            OSError: when it cannot be read, or is not of this size.
        """
        with (self.folder / _MEMORY).open("rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                raise OSError("the snapshot's memory is of another size")
            memory = new_memory(size)
            try:
                copy_data(file.fileno(), memory, size)
            except BaseException:
                os.close(memory)
                raise
            return memory

    def open_state(self) -> int:
        """Return a copy of what the devices were, as a descriptor.

        Raises:
            OSError: when it cannot be read.
        """
        with (self.folder / _STATE).open("rb") as file:
            data = file.read(STATE_BYTES_MAX)
        state = os.memfd_create("state", os.MFD_CLOEXEC)
        with open(state, "wb", closefd=False) as copy:
            copy.write(data)
        os.lseek(state, 0, os.SEEK_SET)
        return state


def name_of(boot: BootFiles, shape: Shape) -> str:
    """Return the name of a snapshot by rule 2. The list of devices and their order is in the command line; the speed
    of the clock that an emulated kernel is told may be any, and another cable is found out when a snapshot is used."""
    line = command_line(shape, empty_shares(shape), replace(host_clock(), khz=0), beginning=Beginning.RESTORED)
    agent = hashlib.sha256(agent_archive()).hexdigest()
    facts = (FORMAT, boot.key, agent, surroundings(), line, asdict(shape))
    return f"{boot.key}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}"


def empty_shares(shape: Shape) -> tuple[GuestMount, ...]:
    """Return as many shares as a machine of this shape has, of nobody's folder."""
    return tuple(GuestMount(EMPTY_FOLDER, f"ws{number}", is_read_only=False) for number in range(shape.shares))


def find(vm: Path, name: str) -> Snapshot | None:
    """Return the snapshot of this name, which is used now; None when there is none."""
    folder = vm / FOLDER / name
    try:
        os.utime(folder)
    except OSError:
        return None
    return Snapshot(folder)


def has_failed(vm: Path, name: str) -> bool:
    """Whether one of this name could lately not be made, or not be used: a machine of this kind boots for a while."""
    return _is_recent(vm, f"{name}{_REFUSED}", REFUSED_S) or _is_recent(vm, f"{name}{_FAILED}", FAILED_S)


def give_up(vm: Path, name: str, reason: str, *, is_lasting: bool) -> None:
    """Remember that no snapshot of this name can be had: for a day what will be so again, for minutes what may pass."""
    folder = vm / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / f"{name}{_REFUSED if is_lasting else _FAILED}").write_text(reason, "utf-8")


def keep(vm: Path, name: str, memory: int, state: bytes) -> None:
    """Keep the memory and the state of a machine that was stopped (rules 1 and 4); one caller does so at a time.

    Raises:
        OSError: when there is no room, or it is larger than any.
    """
    if os.fstat(memory).st_blocks * 512 > BYTES_MAX:
        raise OSError("the machine has used too much memory to be kept")
    folder = vm / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = folder / f"{_PARTIAL}{secrets.token_hex(8)}"
    new.mkdir(mode=0o700)
    try:
        size = os.fstat(memory).st_size
        with (new / _MEMORY).open("wb") as file:
            file.truncate(size)
            copy_data(memory, file.fileno(), size)
            os.fsync(file.fileno())
        with (new / _STATE).open("wb") as file:
            file.write(state)
            file.flush()
            os.fsync(file.fileno())
        new.rename(folder / name)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _prune(folder)


def drop(vm: Path, name: str) -> None:
    """Delete a snapshot; those who have it open are done with it."""
    shutil.rmtree(vm / FOLDER / name, ignore_errors=True)


def remove_unused(vm: Path, keys: frozenset[str]) -> None:
    """Delete the snapshots of what is not among these keys of boot files."""
    folder = vm / FOLDER
    for path in folder.iterdir() if folder.is_dir() else ():
        key, dash, _ = path.name.partition("-")
        if dash and key not in keys and not path.name.startswith("."):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_recent(vm: Path, name: str, age_s_max: float) -> bool:
    try:
        noted_at = (vm / FOLDER / name).stat().st_mtime
    except FileNotFoundError:
        return False
    return abs(time.time() - noted_at) < age_s_max


def _prune(folder: Path) -> None:
    """Delete what is too much by rule 4, and what killed commands have left half done: only one is at work."""
    entries = []
    for path in folder.iterdir():
        status = path.stat()
        if path.name.startswith(_PARTIAL):
            shutil.rmtree(path, ignore_errors=True)
        elif stat.S_ISDIR(status.st_mode) and not path.name.startswith("."):
            entries.append((status.st_mtime_ns, path))
    for _, path in sorted(entries)[:-SNAPSHOTS_MAX]:
        shutil.rmtree(path, ignore_errors=True)


def new_memory(size: int) -> int:
    """Return memory for one machine as a descriptor that QEMU, another user, may open by its name."""
    memory = os.memfd_create("memory", os.MFD_CLOEXEC)
    os.fchmod(memory, 0o666)
    os.ftruncate(memory, size)
    return memory


def copy_data(source: int, target: int, size: int) -> None:
    """Copy a file to one of the same size that is all holes, and leave the holes. lseek(2), sendfile(2).

    Raises:
        OSError: when it cannot be read or written to its end.
    """
    end = 0
    while (start := _next_data(source, end)) is not None:
        end = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(target, start, os.SEEK_SET)
        while start < end:
            copied = os.sendfile(target, source, start, min(COPY_BYTES, end - start))
            if copied == 0:
                raise OSError("a snapshot ended early")
            start += copied
    if os.fstat(target).st_size != size:
        raise OSError("a snapshot changed its size")


def _next_data(fd: int, start: int) -> int | None:
    try:
        return os.lseek(fd, start, os.SEEK_DATA)
    except OSError:
        return None  # ENXIO: a hole to the end
