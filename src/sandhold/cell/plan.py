"""The plan a cell is launched by, as it crosses from the session to the launcher in one sealed piece of memory."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sandhold.linux.syscalls import AT_FDCWD, RESOLVE_NO_SYMLINKS, openat2
from sandhold.linux.users import IdRange, Maps

if TYPE_CHECKING:
    from sandhold.linux.users import IdMap

PLAN_BYTES_MAX: Final = 64 << 20  # injected files are a few certificates; this is a session gone wrong


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of the host as the session saw it, or a regular file: `device` and `inode` say that it is still the same
    one."""

    path: str
    device: int
    inode: int
    is_file: bool = False

    @classmethod
    def look(cls, path: str, *, is_file: bool = False) -> Folder:
        """Return the folder or file at a path without symbolic links.

        Raises:
            OSError: when it is none, or a symbolic link is on the way.
        """
        fd = _open(path, is_file=is_file)
        try:
            status = os.fstat(fd)
        finally:
            os.close(fd)
        return cls(path, status.st_dev, status.st_ino, is_file)

    def open(self) -> int:
        """Return an `O_PATH` descriptor of that very folder in this mount namespace.

        Raises:
            OSError: when another stands there now.
        """
        fd = _open(self.path, is_file=self.is_file)
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != (self.device, self.inode):
            os.close(fd)
            what = "file" if self.is_file else "folder"
            raise OSError(f"`{self.path}` was replaced by another {what} while the sandbox started")
        return fd


@dataclass(frozen=True, slots=True)
class PlannedMount:
    """A workspace. `maps` shows its owner as the agent, None where the ids fit already."""

    folder: Folder
    is_read_only: bool
    maps: Maps | None


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to stand read-only over the root; `owner` is an id inside."""

    path: str
    content: str
    mode: int
    owner: int = 0


@dataclass(frozen=True, slots=True)
class PlannedSeed:
    """A file to put into the layer; `content` and `marker` in base 64, `seeding` as in the cell's specification.

    `owner` is an id inside.
    """

    path: str
    content: str
    seeding: str
    marker: str
    owner: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the launcher needs. `pids` limits the process numbers of the cell where no cgroup does.

    `template_layers` lie over the template, the topmost first.
    """

    parent: int
    name: str
    base: int | None
    is_single: bool
    is_host_kind: bool
    template: Folder
    layer: Folder
    inner: Maps
    mounts: tuple[PlannedMount, ...]
    files: tuple[PlannedFile, ...]
    pids: int | None
    tmp_bytes: int
    seeds: tuple[PlannedSeed, ...] = ()
    template_layers: tuple[Folder, ...] = ()
    devices: tuple[str, ...] = ()

    def owner(self, inside: int) -> int:
        """Return what an id inside is called in the outer user namespace."""
        if self.base is not None:
            return self.base + inside
        return 0 if self.is_single else inside


def to_bytes(plan: Plan) -> bytes:
    """Write a plan as JSON."""
    return json.dumps(plan, default=_fields, separators=(",", ":")).encode("ascii")


def from_bytes(data: bytes) -> Plan:
    """Read what `to_bytes` wrote."""
    raw = json.loads(data)
    return Plan(
        parent=raw["parent"],
        name=raw["name"],
        base=raw["base"],
        is_single=raw["is_single"],
        is_host_kind=raw["is_host_kind"],
        template=Folder(**raw["template"]),
        layer=Folder(**raw["layer"]),
        inner=_maps(raw["inner"]),
        mounts=tuple(
            PlannedMount(Folder(**one["folder"]), one["is_read_only"], _maps(one["maps"]) if one["maps"] else None)
            for one in raw["mounts"]
        ),
        files=tuple(PlannedFile(**one) for one in raw["files"]),
        pids=raw["pids"],
        tmp_bytes=raw["tmp_bytes"],
        seeds=tuple(PlannedSeed(**one) for one in raw["seeds"]),
        template_layers=tuple(Folder(**one) for one in raw["template_layers"]),
        devices=tuple(raw["devices"]),
    )


def _fields(value: object) -> dict[str, object]:
    names: tuple[str, ...] = getattr(value, "__slots__", ())
    assert names, "only the dataclasses of a plan are written"
    return {name: getattr(value, name) for name in names}


def _maps(raw: dict[str, Any]) -> Maps:
    return Maps(_ranges(raw["users"]), _ranges(raw["groups"]))


def _ranges(raw: list[dict[str, int]]) -> IdMap:
    return tuple(IdRange(**line) for line in raw)


def _open(path: str, *, is_file: bool) -> int:
    fd = openat2(AT_FDCWD, path, os.O_PATH | (0 if is_file else os.O_DIRECTORY), RESOLVE_NO_SYMLINKS)
    if is_file and not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"`{path}` is no regular file")
    return fd
