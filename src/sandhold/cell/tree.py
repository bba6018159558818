"""Folders whose files belong to the ids of a sandbox: unpacked, measured and deleted by whoever owns those ids.

Root does that directly. An ordinary user does it as root of a user namespace with the map that cells use, because the
files belong to subordinate ids (man page subuid(5)) which only that namespace can touch.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from sandhold.cell.identity import IDS, identity_for
from sandhold.cell.ownership import owner_of_ids
from sandhold.errors import SbxError
from sandhold.linux.process import run

if TYPE_CHECKING:
    from pathlib import Path

TREE_S_MAX: Final = 600.0  # some 40,000 files on a slow disk


def unpack(archive: Path, tree: Path) -> None:
    """Unpack a root file system with the owners and modes that its archive names, without device nodes.

    Raises:
        SbxError: when it cannot be unpacked as it is.
    """
    as_owner("mkdir", "--mode=0755", "--", str(tree))
    as_owner(
        "tar",
        "--extract",
        f"--file={archive}",
        f"--directory={tree}",
        "--numeric-owner",
        "--same-owner",
        "--preserve-permissions",
        "--exclude=./dev/*",
    )


def move_tree(tree: Path, target: Path) -> None:
    """Move a folder with its owners, modes and attributes to where nothing stands.

    Raises:
        SbxError: when it cannot be moved.
    """
    as_owner("mv", "--no-target-directory", "--", str(tree), str(target))


def copy_tree(tree: Path, target: Path) -> None:
    """Copy a folder with its owners, modes and attributes to where nothing stands, sharing blocks where it can.

    Raises:
        SbxError: when it cannot be copied.
    """
    as_owner("cp", "--archive", "--reflink=auto", "--no-target-directory", "--", str(tree), str(target))


def give_to_template(tree: Path, slot: int) -> None:
    """Give a folder that sandbox `slot` wrote to the ids that templates have on disk: those that it has inside.

    Only root's sandboxes have ids of their own on disk (`cell/identity.py`, rule 1). Capabilities of files are lost, as
    the kernel takes them away with the owner (chown(2)).

    Raises:
        SbxError: when a file belongs to an id that is not the sandbox's.
        OSError: when an owner cannot be changed.
    """
    base = identity_for(slot).base
    if base is None:
        return
    given: set[int] = set()  # files with several names, each met once by its number
    for _, folders, files, fd in os.fwalk(tree, follow_symlinks=False):
        _give(fd, ".", base, given)
        for name in (*files, *(folder for folder in folders if stat.S_ISLNK(_mode(fd, folder)))):
            _give(fd, name, base, given)


def _give(fd: int, name: str, base: int, given: set[int]) -> None:
    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        if status.st_ino in given:
            return
        given.add(status.st_ino)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return  # an overlay's mark for what was deleted, made by the kernel with the rights of who mounted it
    owner, group = status.st_uid - base, status.st_gid - base
    if not (0 <= owner < IDS and 0 <= group < IDS):
        raise SbxError(f"`{name}` in the new template belongs to somebody else")
    os.chown(name, owner, group, dir_fd=fd, follow_symlinks=False)
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=fd)


def _mode(fd: int, name: str) -> int:
    return os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode


def size_of(tree: Path) -> int:
    """Return how many bytes a tree takes on disk."""
    said = as_owner("du", "--summarize", "--block-size=1", "--", str(tree))
    return int(said.split(maxsplit=1)[0])


def delete_tree(tree: Path) -> None:
    """Delete a folder and all in it that is on the same file system; nothing happens when it is gone.

    Raises:
        SbxError: when something in it cannot be deleted.
    """
    if os.path.lexists(tree):
        as_owner("rm", "--recursive", "--force", "--one-file-system", "--", str(tree))


def give_to_root(*files: Path) -> None:
    """Give files to root of the ids that a sandbox has: an ordinary user is the agent inside, and an agent that has got
    a descriptor of a file of its own can open it anew, for writing.

    Raises:
        SbxError: when this user has no such ids.
    """
    as_owner("chown", "--no-dereference", "0:0", "--", *map(str, files))


def as_owner(*argv: str) -> bytes:
    """Run a program of the host as the owner of a sandbox's ids and return what it printed.

    Raises:
        SbxError: with the program's own words when it fails.
    """
    try:
        with owner_of_ids() as inside:
            done = run(argv, inside=inside, timeout_s=TREE_S_MAX)
    except (OSError, TimeoutError) as error:
        raise SbxError(str(error), hint="`sbx doctor` shows what is missing") from None
    if done.status != 0:
        words = done.stderr.decode("utf-8", "replace").strip()
        raise SbxError(f"`{argv[0]}` failed: {words[:1000]}")
    return done.stdout
