"""The layer: what a sandbox installs and writes outside its workspaces, kept from run to run over a read-only base."""

# ruff: noqa: PTH102  # system calls on a tree where pathlib has no words for links and descriptors

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from sandhold.linux.mounts import NODEV, attach_at, clone_tree, map_owners, new_filesystem

if TYPE_CHECKING:
    from sandhold.cell.plan import Plan

WORKBENCH: Final = "/tmp"  # noqa: S108  # covered by an empty file system of our own in a mount namespace of our own


def overlay_of(plan: Plan, inner: int, layer: int, name: str, *lowers: int) -> int:
    """Return a detached overlay of open folders of the host, the topmost first, whose owners show as ids inside where
    we may map them.

    As an ordinary user a template that was unpacked under the same map needs none, and the host's own files show as
    nobody's.
    """
    places = []
    for number, folder in enumerate(lowers):
        lower = clone_tree(folder)
        if plan.base is not None:
            map_owners(lower, inner)
        places.append(f"{WORKBENCH}/lower-{name}-{number}")
        os.mkdir(places[-1])
        attach_at(lower, places[-1])
    return overlay(plan, layer, name, ":".join(places), os.fstat(lowers[-1]))


def overlay(plan: Plan, layer: int, name: str, lower: str, like: os.stat_result) -> int:
    """Return a detached overlay whose changes last in the layer under `name`; `lower` names folders, the topmost first,
    with colons between. overlayfs.rst of the kernel.

    In a user namespace it keeps its marks in `user.` attributes, the only ones it may write.
    """
    for part in ("upper", "work"):
        _layer_folder(plan, layer, f"{name}.{part}", stat.S_IMODE(like.st_mode))
    options: dict[str, str | None] = {
        "lowerdir": lower,
        "upperdir": f"/proc/self/fd/{layer}/{name}.upper",
        "workdir": f"/proc/self/fd/{layer}/{name}.work",
    }
    if plan.base is None:
        options["userxattr"] = None
    return new_filesystem("overlay", options, NODEV)


def _layer_folder(plan: Plan, layer: int, name: str, mode: int) -> None:
    """Make a folder of the layer that belongs to root inside; one from an earlier run stays as it is."""
    try:
        os.mkdir(name, mode, dir_fd=layer)
    except FileExistsError:
        return
    os.chown(name, plan.owner(0), plan.owner(0), dir_fd=layer, follow_symlinks=False)
