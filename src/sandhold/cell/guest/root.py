"""The root file system inside a machine, put together by the guest agent before any command starts.

Rules:

1. The template is the read-only image that the agent itself runs from; an overlay over it keeps its changes on the
   sandbox's own disk. The commands' root is a mount namespace of its own: what root inside does to it changes nothing
   that the agent needs.
2. A link that an earlier run left on that disk leads nowhere but inside: everything is placed with the new root as `/`.
3. `/proc`, `/sys` and `/dev` are the guest kernel's own, whole. The guest is the sandbox's.
"""

# System calls on a tree where pathlib has no words for links and descriptors.
# ruff: noqa: PTH102, PTH123, PTH211

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from sandhold.cell.execution import AGENT_ID
from sandhold.cell.guest.layer_disk import mount_layer_disk
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
    make_private,
    new_filesystem,
    set_attributes,
)
from sandhold.linux.process import fork
from sandhold.linux.syscalls import CLONE_NEWNS, pivot_root_here, unshare

if TYPE_CHECKING:
    from sandhold.cell.machine.plan import GuestMount, GuestPlan

WORKBENCH: Final = "/run"  # a folder of every template; covered by an empty file system of our own
FAILURE_BYTES_MAX: Final = 2000
MESSAGE_BYTES: Final = 512_000  # of 9p (`msize`): fewer round trips for large files, and QEMU takes no more
_RUN_BYTES_MAX: Final = 64 << 20  # sockets and process numbers
_FILES_BYTES_MAX: Final = 64 << 20  # the injected files, at most what a plan can hold
_TTY_GROUP: Final = 5  # group `tty` of every Debian and of most others


@dataclass(frozen=True, slots=True)
class GuestRoot:
    """The commands' root: descriptors of its mount namespace, of its `/`, and of the folder of its terminals; `note` is
    what had to be mended first.

    Entering the namespace alone leads to what the kernel started from, which lies below every root (setns(2)).
    """

    mounts: int
    folder: int
    terminals: int
    note: str = ""


def build_guest_root(plan: GuestPlan) -> GuestRoot:
    """Put the root together by rules 1 to 3 and hold on to it.

    Raises:
        OSError: when a step fails, with what failed.
    """
    attach_at(empty_filesystem(0, _FILES_BYTES_MAX, "0755"), WORKBENCH)
    for name in ("layer", "root", "files"):
        os.mkdir(f"{WORKBENCH}/{name}")
    disk, note = mount_layer_disk()
    attach_at(disk, f"{WORKBENCH}/layer")
    for name in ("upper", "work"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{WORKBENCH}/layer/{name}", 0o755)
    terminals = new_filesystem("devpts", {"ptmxmode": "0666", "mode": "0620", "gid": str(_TTY_GROUP)}, NOSUID | NOEXEC)
    report, write = os.pipe2(os.O_CLOEXEC)
    release, hold = os.pipe2(os.O_CLOEXEC)
    pid = fork()
    if pid == 0:
        _become_builder(plan, terminals, write, release, hold)
    os.close(write)
    os.close(release)
    with open(report, "rb") as said:
        words = said.read(FAILURE_BYTES_MAX)
    try:
        if words:
            raise OSError(words.decode("utf-8", "replace"))
        mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        folder = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return GuestRoot(mounts, folder, terminals, note)
    finally:
        os.close(hold)
        os.waitpid(pid, 0)


def _become_builder(plan: GuestPlan, terminals: int, report: int, release: int, hold: int) -> NoReturn:
    """Build in a mount namespace of our own, say nothing when it is whole, and stay until somebody holds on to it."""
    status = 1
    try:
        os.close(hold)
        unshare(CLONE_NEWNS)
        make_private()
        _build(plan, terminals)
        os.close(report)
        os.read(release, 1)
        status = 0
    except (OSError, ValueError, KeyError) as error:
        name = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
        words = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        os.write(report, f"{words}{name}".encode()[:FAILURE_BYTES_MAX])
    finally:
        os._exit(status)


def _build(plan: GuestPlan, terminals: int) -> None:
    os.umask(0o022)
    root = new_filesystem(
        "overlay",
        {"lowerdir": "/", "upperdir": f"{WORKBENCH}/layer/upper", "workdir": f"{WORKBENCH}/layer/work"},
        NODEV,
    )
    files = [
        (one.path, injected_file(one.owner, f"{WORKBENCH}/files/{number}", one))
        for number, one in enumerate(plan.files)
    ]
    # A parent comes before what lies below it, which would otherwise be covered.
    folders = sorted(plan.mounts, key=lambda mount: mount.path.count("/"))
    workspaces = [(mount.path, _workspace(mount)) for mount in folders]
    attach_at(root, f"{WORKBENCH}/root")
    os.chdir(f"{WORKBENCH}/root")
    pivot_root_here()
    make_home(0, AGENT_ID)
    for seed in plan.seeds:
        sow(seed, seed.owner)
    _place_system(plan, terminals)
    for path, tree in workspaces:
        folder = make_folder(0, path)
        let_agent_through(path, [other for other, _ in workspaces])
        attach(tree, folder)
    for path, tree in files:
        attach(tree, make_file(0, path))
    socket.sethostname(plan.name)


def _place_system(plan: GuestPlan, terminals: int) -> None:
    """Rule 3, and the folders that start empty."""
    attach(empty_filesystem(0, plan.tmp_bytes, "1777"), make_folder(0, "/tmp"))  # noqa: S108
    attach(empty_filesystem(0, _RUN_BYTES_MAX, "0755"), make_folder(0, "/run"))
    attach(new_filesystem("proc", {}, NOSUID | NODEV | NOEXEC), make_folder(0, "/proc"))
    attach(new_filesystem("sysfs", {}, NOSUID | NODEV | NOEXEC), make_folder(0, "/sys"))
    attach(new_filesystem("devtmpfs", {}, NOSUID), make_folder(0, "/dev"))
    for name, target in DEVICE_LINKS[:-1]:
        with contextlib.suppress(FileExistsError):
            os.symlink(target, f"/dev/{name}")
    attach(terminals, make_folder(0, "/dev/pts"))
    attach(empty_filesystem(0, plan.tmp_bytes, "1777"), make_folder(0, "/dev/shm"))  # noqa: S108
    limit_process_numbers(plan.pids)


def _workspace(mount: GuestMount) -> int:
    """Mount a folder of the host's over 9p (Documentation/filesystems/9p.rst of the kernel).

    `cache=mmap` asks the host about everything but pages that a program has mapped: what the user changes outside is
    seen at once, and programs that write through mappings still work.
    """
    options: dict[str, str | None] = {
        "source": mount.tag,
        "trans": "virtio",
        "version": "9p2000.L",
        "msize": str(MESSAGE_BYTES),
        "cache": "mmap",
        "access": "any",
    }
    tree = new_filesystem("9p", options, NOSUID | NODEV)
    if mount.is_read_only:
        set_attributes(tree, RDONLY)  # the host's side refuses anyway; so programs hear it in the usual words
    return tree
