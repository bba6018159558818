"""Control groups: how much memory, processor time and how many processes a tree of processes may use.

Both layouts are spoken: the unified one (cgroup v2) and the older one with a tree per controller (v1). cgroups(7).
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandhold.model.sandbox import Limits

MOUNT: Final = Path("/sys/fs/cgroup")
PARENT: Final = "sandhold"
REMOVAL_TIMEOUT_S: Final = 5.0  # the kernel takes a moment to let go of processes that have ended
_REMOVAL_PAUSE_S: Final = 0.01
_PERIOD_US: Final = 100_000
_CONTROLLERS: Final = ("memory", "pids", "cpu")


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """The folders of one group, one a controller under v1."""

    folders: tuple[Path, ...]
    controllers: frozenset[str]

    def add(self, pid: int) -> None:
        """Put a process and everything it starts under the limits."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_bytes(b"%d" % pid)

    def remove(self) -> None:
        """Remove the group once its processes have ended.

        Raises:
            TimeoutError: when the kernel still counts one after `REMOVAL_TIMEOUT_S`.
        """
        deadline = time.monotonic() + REMOVAL_TIMEOUT_S
        for folder in self.folders:
            while True:
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    pass
                except OSError:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"the control group `{folder}` still has processes") from None
                    time.sleep(_REMOVAL_PAUSE_S)  # the kernel offers no event for the last process of a v1 group
                    continue
                break


def open_control_group(name: str, limits: Limits) -> ControlGroup | None:
    """Make a group with these limits, or return None where this user may not.

    Raises:
        OSError: when the group was made but does not take a limit.
    """
    folders = _writable_parents()
    if not folders:
        return None
    for parent in set(folders.values()):
        _remove_stale(parent)
    leaf = f"{name}-{os.getpid()}-{os.urandom(4).hex()}"
    made = tuple(dict.fromkeys(parent / leaf for parent in folders.values()))
    group = ControlGroup(made, frozenset(folders))
    try:
        for folder in made:
            folder.mkdir()
        for controller, parent in folders.items():
            _set_limits(controller, parent / leaf, limits)
    except OSError:
        group.remove()
        raise
    return group


def _writable_parents() -> dict[str, Path]:
    """Return the folder to make groups in, by controller."""
    unified = (MOUNT / "cgroup.controllers").exists()
    found: dict[str, Path] = {}
    for controller in _CONTROLLERS:
        parent = (MOUNT if unified else MOUNT / controller) / PARENT
        with contextlib.suppress(OSError):
            if unified:
                _delegate(MOUNT, controller)
            parent.mkdir(exist_ok=True)
            if unified:
                _delegate(parent, controller)
            if os.access(parent, os.W_OK):
                found[controller] = parent
    return found


def _delegate(folder: Path, controller: str) -> None:
    active = folder / "cgroup.subtree_control"
    if controller not in active.read_text("ascii").split():
        active.write_text(f"+{controller}", "ascii")


def _set_limits(controller: str, folder: Path, limits: Limits) -> None:
    for file, value in _settings(controller, folder, limits):
        (folder / file).write_text(value, "ascii")


def _settings(controller: str, folder: Path, limits: Limits) -> Iterator[tuple[str, str]]:
    is_unified = (folder / "cgroup.controllers").exists()
    if controller == "pids":
        yield "pids.max", str(limits.pids)
    elif controller == "memory" and limits.memory is not None:
        if is_unified:
            yield "memory.max", str(limits.memory)
            if (folder / "memory.swap.max").exists():
                yield "memory.swap.max", "0"
        else:
            yield "memory.limit_in_bytes", str(limits.memory)
            if (folder / "memory.memsw.limit_in_bytes").exists():
                yield "memory.memsw.limit_in_bytes", str(limits.memory)
    elif controller == "cpu" and limits.cpus is not None:
        quota = max(int(limits.cpus * _PERIOD_US), 1000)  # the kernel's smallest quota is a millisecond
        if is_unified:
            yield "cpu.max", f"{quota} {_PERIOD_US}"
        else:
            yield "cpu.cfs_period_us", str(_PERIOD_US)
            yield "cpu.cfs_quota_us", str(quota)


def _remove_stale(parent: Path) -> None:
    """Remove groups whose session, named in theirs, was killed; the kernel keeps one that still has processes."""
    for folder in parent.iterdir():
        owner = folder.name.split("-")[-2:-1]
        if owner and owner[0].isdigit() and not Path("/proc", owner[0]).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()
