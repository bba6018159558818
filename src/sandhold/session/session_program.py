"""The program that is a session: it makes the copies that its helpers will be, and only then learns what it is for.

1. Modules that several of these processes need are imported once, before the copies that need them are made: their
   pages are shared, and a helper costs a fork instead of an interpreter's start.
2. What none of them uses is left out (`left_out.py`), before the first module is imported that would import it.
3. The copies are made before the user's environment, settings or database are read (`linux/spares.py`, rule 1).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
from typing import TYPE_CHECKING, Final

from sandhold.errors import SbxError
from sandhold.session.left_out import leave_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandhold.linux.process import Spawn

DESCRIPTORS: Final = 8192  # CHANNELS_MAX connections with four each, and a cell's own; also what programs may open
ENVIRONMENT_BYTES_MAX: Final = 1 << 20  # the variables of `starting.py`, each of at most 128 KiB (execve(2))
COPIES: Final = (
    (("sandhold.cell.plan", "sandhold.linux.process"), ("sandhold.cell.launch",)),
    (("sandhold.cell.inside.network_inside",), ("sandhold.cell.inside.network_inside",)),
    (
        ("sandhold.session.circumstances", "sandhold.store.sandboxes", "sandhold.agents.definitions"),
        ("sandhold.session.children.authority_program", "sandhold.session.children.egress_program"),
    ),
)
"""The copies by the modules they will be, in the order they are made in, each behind what this process and they share.

What process 1 comes of is the first, with the least: a copy keeps in memory all that it was made with, from the moment
that the others have written to their own.
"""


def main() -> None:
    """Run the session named on the command line; says on descriptor `ready` when commands can start, or why not."""
    given = json.loads(sys.argv[1])
    os.umask(0o077)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, DESCRIPTORS), hard))
    leave_out()
    from sandhold.linux.spares import Spares  # noqa: PLC0415  rule 2

    with Spares() as spares:
        for shared, helpers in COPIES:
            for module in shared:
                importlib.import_module(module)
            spares.make(helpers)
        with open(given["environment"], "rb") as file:  # noqa: PTH123  a descriptor
            os.environ.update(json.loads(file.read(ENVIRONMENT_BYTES_MAX)))
        _run(spares.spawn, given)


def _run(spawn: Spawn, given: Mapping[str, str]) -> None:
    from pathlib import Path  # noqa: PLC0415  rule 2

    from sandhold.paths import Paths  # noqa: PLC0415
    from sandhold.session.children.egress_process import EgressError  # noqa: PLC0415
    from sandhold.session.log import SessionLog  # noqa: PLC0415
    from sandhold.session.presence import AlreadyHeldError  # noqa: PLC0415
    from sandhold.session.run import print_log, run_session  # noqa: PLC0415  rule 1: what only the session needs

    paths = Paths(Path(given["state"]), Path(given["data"]), Path(given["config"]))
    sys.stderr = SessionLog(paths.sandbox(given["name"]))
    ready = int(given["ready"])

    def say(answer: Mapping[str, object]) -> None:
        with contextlib.suppress(OSError):
            os.write(ready, json.dumps(answer).encode())
            os.close(ready)

    try:
        run_session(paths, given["name"], spawn, lambda: say({"ready": True}))
    except AlreadyHeldError:
        say({"held": True})
    except SbxError as error:
        print_log(f"error: {error.message}")
        say({"error": error.message, "hint": error.hint, "status": error.status})
    except (OSError, ValueError, EgressError) as error:
        print_log(f"error: {error}")
        say({"error": str(error), "hint": f"`sbx doctor` shows what this host can do; `sbx logs {given['name']}`"})
