"""The root file system of a cell, put together by process 1 before anything else runs inside.

Rules:

1. Every source is opened on the host's tree, checked to be the folder the session saw, and copied into a detached
   mount with all its attributes. Then the root changes and the host's tree is let go of. Only then are the mounts put
   in place: a symbolic link that an earlier run left in the layer can lead nowhere but inside.
2. Nothing of the host is in the new root but the template (read through an overlay or an id map), the workspaces, six
   devices and what the session injected.
3. Workspaces have no set-id bits and no devices; read-only ones are read-only with everything mounted below.
4. `/proc` is the cell's own, without the files that reach the whole kernel; `/sys` is empty; `/dev` cannot be changed.
"""

# System calls on a tree where pathlib has no words for links and descriptors.
# ruff: noqa: PTH102, PTH112, PTH116, PTH211

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.cell.execution import AGENT_ID
from sandhold.cell.images.host_root import host_layers
from sandhold.cell.images.layers import overlay_of
from sandhold.cell.inside.seeds_inside import sow
from sandhold.cell.places import (
    DEVICE_LINKS,
    empty_filesystem,
    injected_file,
    let_agent_through,
    limit_process_numbers,
    make_file,
    make_folder,
    make_home,
)
from sandhold.linux.mounts import (
    NODEV,
    NOEXEC,
    NOSUID,
    RDONLY,
    attach,
    attach_at,
    clone_tree,
    make_private,
    map_owners,
    mount_id,
    new_filesystem,
    set_attributes,
    set_own_attributes,
)
from sandhold.linux.syscalls import AT_FDCWD, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2, pivot_root_here

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandhold.cell.plan import Folder, Plan, PlannedMount

_TTY_GROUP: Final = 5  # group `tty` of every Debian and of most others
_RUN_BYTES_MAX: Final = 64 << 20  # sockets and process numbers
_SMALL_BYTES_MAX: Final = 1 << 20  # mount points and links only
_FILES_BYTES_MAX: Final = 64 << 20  # the injected files, at most what a plan can hold
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_OWN: Final = ("/", "/tmp", "/run", "/dev/shm")  # noqa: S108
# What tells about or changes the whole machine; most is closed to the cell's ids anyway.
_HIDDEN_FILES: Final = (
    "kcore keys key-users kmsg kpagecgroup kpagecount kpageflags kallsyms timer_list sched_debug latency_stats "
    "sysrq-trigger vmallocinfo slabinfo iomem ioports"
)
_HIDDEN_FOLDERS: Final = "acpi asound bus driver firmware fs irq scsi tty"


@dataclass(frozen=True, slots=True)
class Root:
    """The finished root: `own_mounts` are the numbers of the mounts that live in the layer and nowhere on the host."""

    own_mounts: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the new root is made of: detached mounts, open descriptors of them, and where each belongs."""

    root: int
    overlays: tuple[tuple[str, int], ...]
    links: tuple[tuple[str, str], ...]
    workspaces: tuple[tuple[Folder, int], ...]
    files: tuple[tuple[str, int], ...]
    devices: Mapping[str, int]
    proc: int
    terminals: int


def build_root(plan: Plan, inner: int, workspace_maps: Sequence[int | None]) -> Root:
    """Put the root together by rules 1 to 4 and make it this process's own.

    `inner` is the inner user namespace, `workspace_maps` holds the namespace to show each mount through, in order.
    The process must be in a mount and a process namespace of its own.

    Raises:
        OSError: when a step fails; nothing has been seen from inside.
    """
    make_private()
    mounts = [(mount, mount.folder.open()) for mount in plan.mounts]
    layer = plan.layer.open()
    templates = [folder.open() for folder in (*plan.template_layers, plan.template)]
    if plan.base is None and not plan.is_single:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    os.umask(0o022)
    parts = _gather(plan, inner, layer, templates, _workspaces(mounts, workspace_maps))
    _enter(parts.root)
    for path, target in parts.links:
        with contextlib.suppress(FileExistsError):
            os.symlink(target, path)
    for path, tree in parts.overlays:
        attach(tree, make_folder(plan.owner(0), path))
    make_home(plan.owner(0), plan.owner(AGENT_ID))
    for seed in plan.seeds:
        sow(seed, plan.owner(seed.owner))
    _place_system(plan, parts)
    own = [_mount_number(path) for path in (*_OWN, *(path for path, _ in parts.overlays))]
    for source, tree in parts.workspaces:
        place = _same_file(source) if source.is_file else make_folder(plan.owner(0), source.path)
        let_agent_through(source.path, [other.path for other, _ in parts.workspaces])
        attach(tree, place)
    for path, tree in parts.files:
        attach(tree, make_file(plan.owner(0), path))
    return Root(frozenset(own))


def _gather(
    plan: Plan, inner: int, layer: int, templates: Sequence[int], workspaces: tuple[tuple[Folder, int], ...]
) -> _Parts:
    """Make every detached mount while the host's tree is still there; `/tmp` becomes our workbench."""
    devices = {name: _device(name) for name in _DEVICES}
    proc = new_filesystem("proc", {}, NOSUID | NODEV | NOEXEC)
    attach_at(_tmpfs(plan, _FILES_BYTES_MAX, "0755"), "/tmp")  # noqa: S108  # covers the host's, in our namespace only
    if plan.is_host_kind:
        root, overlays, links = host_layers(plan, inner, layer, templates[-1])
    else:
        root, overlays, links = overlay_of(plan, inner, layer, "root", *templates), (), ()
    devices |= _extra_devices(plan)
    return _Parts(root, overlays, links, workspaces, _injected(plan), devices, proc, _terminals(plan))


def _workspaces(
    mounts: Sequence[tuple[PlannedMount, int]], maps: Sequence[int | None]
) -> tuple[tuple[Folder, int], ...]:
    """Rule 3. A parent comes before what lies below it, which would otherwise be covered."""
    trees = []
    for (mount, fd), namespace in zip(mounts, maps, strict=True):
        tree = clone_tree(fd)
        if namespace is not None:
            map_owners(tree, namespace)
        set_attributes(tree, NOSUID | NODEV | (RDONLY if mount.is_read_only else 0))
        trees.append((mount.folder, tree))
    return tuple(sorted(trees, key=lambda pair: pair[0].path.count("/")))


def _injected(plan: Plan) -> tuple[tuple[str, int], ...]:
    os.mkdir("/tmp/files")  # noqa: S108
    return tuple(
        (one.path, injected_file(plan.owner(one.owner), f"/tmp/files/{number}", one))  # noqa: S108
        for number, one in enumerate(plan.files)
    )


def _enter(root: int) -> None:
    os.mkdir("/tmp/root")  # noqa: S108
    attach_at(root, "/tmp/root")  # noqa: S108
    os.chdir("/tmp/root")  # noqa: S108
    pivot_root_here()


def _place_system(plan: Plan, parts: _Parts) -> None:
    """Rule 4, and the file systems that start empty."""
    attach(_tmpfs(plan, plan.tmp_bytes, "1777"), make_folder(plan.owner(0), "/tmp"))  # noqa: S108
    attach(_tmpfs(plan, _RUN_BYTES_MAX, "0755"), make_folder(plan.owner(0), "/run"))
    sys_tree = _tmpfs(plan, _SMALL_BYTES_MAX, "0555")
    set_attributes(sys_tree, RDONLY)
    attach(sys_tree, make_folder(plan.owner(0), "/sys"))
    _place_devices(plan, parts)
    attach(parts.proc, make_folder(plan.owner(0), "/proc"))
    if plan.pids is not None:
        with contextlib.suppress(OSError):  # the session says so where it cannot be
            limit_process_numbers(plan.pids)
    _hide_in_proc(plan, parts.devices["null"])


def _place_devices(plan: Plan, parts: _Parts) -> None:
    tree = _tmpfs(plan, _SMALL_BYTES_MAX, "0755")
    attach(tree, make_folder(plan.owner(0), "/dev"))
    for name in parts.devices:
        os.close(os.open(f"/dev/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
    os.mkdir("/dev/pts")
    os.mkdir("/dev/shm")  # noqa: S108
    for name, target in DEVICE_LINKS:
        os.symlink(target, f"/dev/{name}")
    set_own_attributes(tree, RDONLY)
    for name in parts.devices:
        attach_at(parts.devices[name], f"/dev/{name}")
    attach_at(parts.terminals, "/dev/pts")
    attach_at(_tmpfs(plan, plan.tmp_bytes, "1777"), "/dev/shm")  # noqa: S108


def _hide_in_proc(plan: Plan, null: int) -> None:
    tree = clone_tree(os.open("/proc/sys", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    set_attributes(tree, RDONLY | NOSUID | NODEV | NOEXEC)
    attach_at(tree, "/proc/sys")
    for name in _HIDDEN_FILES.split():
        if os.path.lexists(f"/proc/{name}"):
            attach_at(clone_tree(null), f"/proc/{name}")
    for name in _HIDDEN_FOLDERS.split():
        if os.path.isdir(f"/proc/{name}"):
            empty = _tmpfs(plan, _SMALL_BYTES_MAX, "0555")
            set_attributes(empty, RDONLY)
            attach_at(empty, f"/proc/{name}")


def _terminals(plan: Plan) -> int:
    options: dict[str, str | None] = {"ptmxmode": "0666", "mode": "0620"}
    if not plan.is_single:
        options["gid"] = str(plan.owner(_TTY_GROUP))
    return new_filesystem("devpts", options, NOSUID | NOEXEC)


def _tmpfs(plan: Plan, size: int, mode: str) -> int:
    return empty_filesystem(plan.owner(0), size, mode)


def _device(name: str) -> int:
    fd = os.open(f"/dev/{name}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISCHR(os.fstat(fd).st_mode):
        raise OSError(f"`/dev/{name}` of this host is no device")
    tree = clone_tree(fd)
    os.close(fd)
    set_attributes(tree, NOSUID | NOEXEC)
    return tree


def _extra_devices(plan: Plan) -> dict[str, int]:
    """Return what the plan asks for beside the devices of every cell.

    Root makes nodes of its own, which belong to the agent's user; the host's own may be closed to it. An ordinary user
    can only pass the host's on, with the rights that it has.
    """
    if plan.base is None or not plan.devices:
        return {name: _device(name) for name in plan.devices}
    os.mkdir("/tmp/devices")  # noqa: S108
    owner = plan.owner(AGENT_ID)
    attach_at(new_filesystem("tmpfs", {"size": str(_SMALL_BYTES_MAX)}, NOSUID | NOEXEC), "/tmp/devices")  # noqa: S108
    trees = {}
    for name in plan.devices:
        place = f"/tmp/devices/{name}"  # noqa: S108
        os.mknod(place, stat.S_IFCHR | 0o600, os.stat(f"/dev/{name}").st_rdev)
        os.chown(place, owner, owner)
        trees[name] = clone_tree(os.open(place, os.O_PATH | os.O_CLOEXEC))
    return trees


def _same_file(source: Folder) -> int:
    """Return the very file that a file's mount comes from, seen through the folder that it lies in.

    Raises:
        OSError: when another stands in its place.
    """
    fd = openat2(AT_FDCWD, source.path, os.O_PATH, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != (source.device, source.inode):
        raise OSError(f"`{source.path}` was replaced by another while the sandbox started")
    return fd


def _mount_number(path: str) -> int:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return mount_id(fd)
    finally:
        os.close(fd)
