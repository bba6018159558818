"""What is said when the user of an agent is done: what its session left if it has ended, and where its work is.

What there is to say is looked for with few modules; the rest is loaded where something is found.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from sandhold.session.staying import stays
from sandhold.session.workspace.branch_folder import may_have_branch

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENDING: Final = "sandhold.cli.ending"


def say_end(folder: str, sandbox: str, environ: Mapping[str, str]) -> None:
    """Wait for the end of a session that nobody else needs, and say what it left; `folder` is its sandbox's."""
    if stays(folder, meanwhile=lambda: importlib.import_module(_ENDING)):
        return
    from pathlib import Path  # noqa: PLC0415  with trails and policies, where a session ends

    from sandhold.cli import ending  # noqa: PLC0415
    from sandhold.paths import Paths  # noqa: PLC0415
    from sandhold.session.ends import ENDING_TIMEOUT_S, has_ended  # noqa: PLC0415

    if has_ended(Path(folder), ENDING_TIMEOUT_S):
        ending.say_end(Paths.from_environment(environ), sandbox)


def say_review(data: str, sandbox: str, environ: Mapping[str, str]) -> None:
    """Say how to look at the work on a sandbox's branch, if it has one; `data` is the folder `Paths.data`."""
    if not may_have_branch(data, sandbox):
        return
    from sandhold.cli import branching  # noqa: PLC0415  with all that git needs; few sandboxes have a branch
    from sandhold.paths import Paths  # noqa: PLC0415

    branching.say_how_to_review(Paths.from_environment(environ), sandbox)
