"""The program that is a session: it makes the copies that its helpers will be, and only then learns what it is for.

1. Modules that several of these processes need are imported once, before the copies are made: their pages are shared,
   and a helper costs a fork instead of an interpreter's start.
2. What dnspython looks for other packages with is left out: it is a tenth of what egress weighs beside these modules,
   and egress uses none of the parts that would be found.
3. The copies are made before the user's environment, settings or database are read (`linux/spares.py`, rule 1).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from sandhold.cell.namespaces import LAUNCHER
from sandhold.cell.network import NETWORK_MAKER
from sandhold.errors import SbxError
from sandhold.linux.spares import Spares
from sandhold.paths import Paths
from sandhold.session.children.authority import AUTHORITY_PROGRAM
from sandhold.session.children.egress_process import EGRESS_PROGRAM, EgressError
from sandhold.session.log import SessionLog
from sandhold.session.presence import AlreadyHeldError

if TYPE_CHECKING:
    from collections.abc import Mapping

DESCRIPTORS: Final = 8192  # CHANNELS_MAX connections with four each, and a cell's own; also what programs may open
ENVIRONMENT_BYTES_MAX: Final = 1 << 20  # the variables of `starting.py`, each of at most 128 KiB (execve(2))
HELPERS: Final = (AUTHORITY_PROGRAM, NETWORK_MAKER, LAUNCHER, EGRESS_PROGRAM)
SHARED: Final = ("sandhold.cell.launch", "sandhold.cell.inside.network_inside", "sandhold.session.policies")
UNUSED: Final = "importlib.metadata"


def main() -> None:
    """Run the session named on the command line; says on descriptor `ready` when commands can start, or why not."""
    given = json.loads(sys.argv[1])
    os.umask(0o077)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, DESCRIPTORS), hard))
    leave_out_unused()
    for module in SHARED:
        importlib.import_module(module)
    with Spares.make(HELPERS) as spares:
        with open(given["environment"], "rb") as file:  # noqa: PTH123  a descriptor
            os.environ.update(json.loads(file.read(ENVIRONMENT_BYTES_MAX)))
        _run(spares, given)


def leave_out_unused() -> None:
    """Let dnspython find an empty module where it looks for other packages (rule 2)."""
    sys.modules[UNUSED] = ModuleType(UNUSED)


def _run(spares: Spares, given: Mapping[str, str]) -> None:
    from sandhold.session.run import print_log, run_session  # noqa: PLC0415  rule 1: what only the session needs

    paths = Paths(Path(given["state"]), Path(given["data"]), Path(given["config"]))
    sys.stderr = SessionLog(paths.sandbox(given["name"]))
    ready = int(given["ready"])

    def say(answer: Mapping[str, object]) -> None:
        with contextlib.suppress(OSError):
            os.write(ready, json.dumps(answer).encode())
            os.close(ready)

    try:
        run_session(paths, given["name"], spares.spawn, lambda: say({"ready": True}))
    except AlreadyHeldError:
        say({"held": True})
    except SbxError as error:
        print_log(f"error: {error.message}")
        say({"error": error.message, "hint": error.hint, "status": error.status})
    except (OSError, ValueError, EgressError) as error:
        print_log(f"error: {error}")
        say({"error": str(error), "hint": f"`sbx doctor` shows what this host can do; `sbx logs {given['name']}`"})


if __name__ == "__main__":
    main()
