"""Folders whose files belong to the ids of a sandbox: unpacked, measured and deleted by whoever owns those ids.

Root does that directly. An ordinary user does it as root of a user namespace with the map that cells use, because the
files belong to subordinate ids (man page subuid(5)) which only that namespace can touch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

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
