"""`python -m sandhold` and the `sbx` command."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandhold.session.launching import Begun

# What modules leave behind while they are imported lives as long as the process; looking for garbage among it is a
# tenth of a short command. A long one makes as much again every few seconds and is cleaned up after.
_ALLOCATIONS_BEFORE_COLLECTING = 100_000


def main() -> None:
    """Run the command line and exit with its status."""
    gc.set_threshold(_ALLOCATIONS_BEFORE_COLLECTING)
    status = _shortcut() if sys.argv[1:2] in (["exec"], ["run"]) else None
    if not isinstance(status, int):
        from sandhold.cli.main import main as command_line  # noqa: PLC0415  the short way needs a third of it

        status = command_line(status)
    gc.freeze()  # the interpreter's end has nothing to look for either
    sys.exit(status)


def _shortcut() -> int | Begun | None:
    from sandhold.cli import shortcut  # noqa: PLC0415  for two commands
    from sandhold.errors import SbxError  # noqa: PLC0415

    try:
        return shortcut.take(sys.argv[1:], os.environ)
    except (SbxError, OSError, KeyboardInterrupt) as error:
        from sandhold.cli import failures  # noqa: PLC0415  where one failed

        return failures.say(error)


if __name__ == "__main__":
    main()
