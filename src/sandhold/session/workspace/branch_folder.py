"""Where branch mode keeps worktrees (`session/workspace/branches.py`), and whether a sandbox may have one there."""

from __future__ import annotations

import os
from typing import Final

BRANCHES_FOLDER: Final = "branches"  # in the data folder


def may_have_branch(data: str, sandbox: str) -> bool:
    """Whether something is kept for that sandbox in the data folder, or it cannot be told."""
    try:
        os.stat(f"{data}/{BRANCHES_FOLDER}/{sandbox}")  # noqa: PTH116  for commands that load no more than they need
    except FileNotFoundError:
        return False
    except OSError:
        return True  # whoever reads it has the words
    return True
