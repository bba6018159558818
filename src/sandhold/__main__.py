"""`python -m sandhold` and the `sbx` command."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

from sandhold.errors import SbxError

if TYPE_CHECKING:
    from sandhold.session.launching import Begun

# What modules leave behind while they are imported lives as long as the process; looking for garbage among it is a
# tenth of a short command. A long one makes as much again every few seconds and is cleaned up after.
_ALLOCATIONS_BEFORE_COLLECTING = 100_000


def main() -> None:
    """Run the command line and exit with its status."""
    gc.set_threshold(_ALLOCATIONS_BEFORE_COLLECTING)
    try:
        status = _status()
    except (SbxError, OSError, KeyboardInterrupt) as error:  # also while modules are loaded
        from sandhold.cli import failures  # noqa: PLC0415  where one failed

        status = failures.say(error)
    gc.freeze()  # the interpreter's end has nothing to look for either
    sys.exit(status)


def _status() -> int:
    taken = _shortcut() if sys.argv[1:2] in (["exec"], ["run"]) else None
    if isinstance(taken, int):
        return taken
    from sandhold.cli.main import main as command_line  # noqa: PLC0415  the short way needs a third of it

    return command_line(taken)


def _shortcut() -> int | Begun | None:
    from sandhold.cli import shortcut  # noqa: PLC0415  for two commands

    return shortcut.take(sys.argv[1:], os.environ)


if __name__ == "__main__":
    main()
