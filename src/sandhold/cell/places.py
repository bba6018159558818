"""Where things are put in the root of a sandbox, in whichever kind of cell: folders, files and links that may have been
left in the way by an earlier run, and the file systems that stand there.

All of it runs with the sandbox's root as its own, so that a link can lead nowhere but inside.
"""

# System calls on a tree where pathlib has no words for links and descriptors.
# ruff: noqa: PTH101, PTH102, PTH112, PTH120, PTH123

from __future__ import annotations

import base64
import contextlib
import os
import stat
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from sandhold.linux.mounts import NODEV, NOSUID, RDONLY, clone_tree, new_filesystem, set_attributes
from sandhold.linux.syscalls import AT_FDCWD, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandhold.cell.plan import PlannedFile

NUMBERS_KEPT: Final = 301  # the kernel keeps 300 process numbers back, so that a bound by them is that much looser
DEVICE_LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)


def make_folder(owner: int, path: str) -> int:
    """Return the folder at a path of the new root, made with its parents where missing; no link is followed. What is
    made belongs to `owner`.

    Raises:
        OSError: when a link or a file stands in its way, left there by an earlier run.
    """
    here = ""
    for name in path.split("/")[1:]:
        here += f"/{name}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(here, 0o755)
            os.chown(here, owner, owner, follow_symlinks=False)
        if not stat.S_ISDIR(os.lstat(here).st_mode):
            raise OSError(f"the sandbox's own `{here}` is no folder any more; nothing can be mounted on `{path}`")
    return openat2(AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS)


def make_file(owner: int, path: str) -> int:
    """Return the file that a path of the new root leads to, following its links inside, made empty where missing.

    Raises:
        OSError: when something else than a file stands there, left by an earlier run.
    """
    target = os.path.realpath(path)
    make_folder(owner, os.path.dirname(target))
    with contextlib.suppress(FileExistsError):
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644))
        os.chown(target, owner, owner, follow_symlinks=False)
    fd = openat2(AT_FDCWD, target, os.O_PATH, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(f"the sandbox's own `{target}` is no file any more; `{path}` cannot be given to it")
    return fd


def make_home(root: int, agent: int) -> None:
    """Make the agent's home where an earlier run has left none; the ids are those of root inside and of the agent."""
    make_folder(root, "/home")
    if not os.path.isdir("/home/agent"):
        os.mkdir("/home/agent", 0o700)
        os.chown("/home/agent", agent, agent, follow_symlinks=False)


def empty_filesystem(owner: int, size: int, mode: str) -> int:
    """Return a mount that starts empty and is in memory, at most `size` bytes of it. tmpfs(5)."""
    options = {
        "size": str(size),
        "nr_inodes": str(max(size // 4096, 1024)),
        "mode": mode,
        "uid": str(owner),
        "gid": str(owner),
    }
    return new_filesystem("tmpfs", options, NOSUID | NODEV)


def injected_file(owner: int, place: str, one: PlannedFile) -> int:
    """Return a read-only mount of a file that the session puts inside, whose content is kept at `place`."""
    fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(base64.b64decode(one.content))
        os.fchown(fd, owner, owner)
        os.fchmod(fd, one.mode & 0o777)
    tree = clone_tree(os.open(place, os.O_PATH | os.O_CLOEXEC))
    set_attributes(tree, RDONLY | NOSUID | NODEV)
    return tree


def limit_process_numbers(pids: int) -> None:
    """Bound the processes of this namespace by their numbers: of a machine, or since Linux 6.14 of any.

    Raises:
        OSError: where the numbers are the host's.
    """
    with open("/proc/sys/kernel/pid_max", "wb") as file:
        file.write(b"%d" % (pids + NUMBERS_KEPT))


def let_agent_through(path: str, workspaces: Sequence[str]) -> None:
    """Let every user inside pass the folders above a workspace: root's home inside holds nothing of the host's.

    A folder that is or lies in another workspace is the host's own, and keeps its mode.
    """
    for parent in accumulate(path.split("/")[1:-1], lambda above, name: f"{above}/{name}", initial=""):
        if parent and not any(f"{parent}/".startswith(f"{other}/") for other in workspaces):
            mode = stat.S_IMODE(os.lstat(parent).st_mode)
            if not mode & 0o001:
                os.chmod(parent, mode | 0o001)
