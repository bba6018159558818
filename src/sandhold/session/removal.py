"""Deleting a sandbox: its row, its writable layer and its folder; never its workspace, never its audit trail."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from sandhold.cell import tree
from sandhold.cell.layout import LAYER_FOLDER
from sandhold.errors import SbxError
from sandhold.session.policies import editor
from sandhold.session.presence import AlreadyHeldError, hold
from sandhold.session.workspace import branches
from sandhold.store import rules, sandboxes

if TYPE_CHECKING:
    from sandhold.paths import Paths
    from sandhold.store.database import Database


def remove_sandbox(paths: Paths, database: Database, name: str) -> str | None:
    """Delete a stopped sandbox and the rules that were for it alone: another one of the name starts without them.

    Returns the path of its worktree when it was on a branch and that holds work which no commit has: it is kept.

    Raises:
        SbxError: when it runs, or its files cannot be deleted; it stays listed then.
    """
    folder = paths.sandbox(name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with hold(folder):
            if (folder / LAYER_FOLDER).exists():
                tree.delete_tree(folder / LAYER_FOLDER)
            kept = branches.release(paths, name)
            shutil.rmtree(folder)
            rules.remove_scope(database, editor(paths, database, name), name)
            sandboxes.remove(database, name)
            return kept
    except AlreadyHeldError:
        raise SbxError(f"`{name}` is running", hint=f"stop it first, or `sbx rm -f {name}`") from None
    except OSError as error:
        raise SbxError(f"the files of `{name}` cannot be deleted: {error.strerror or error}") from error
