"""The home as an agent finds it: its own settings, and the file in which it reads where it is.

They are placed by a command inside, as the agent's user: what stands in a home is the sandbox's own, and a link that an
earlier run left there leads to nothing of the host's. A file that is there is left as it is.
"""

from __future__ import annotations

import json
import os
import select
import time
from typing import TYPE_CHECKING, Final

from sandhold.agents.parsing import WORKSPACE
from sandhold.cell.spec import AGENT_USER, CellDied, Command, Exited
from sandhold.session.furnish import inside

if TYPE_CHECKING:
    from sandhold.agents.parsing import Agent
    from sandhold.cell.spec import Cell
    from sandhold.model.sandbox import Sandbox

FURNISH_S_MAX: Final = 60.0  # a shell that writes three small files, emulated, on a machine busy with twenty others

_PLACE: Final = """
cd "$HOME" || exit
status=0
while [ $# -ge 2 ]; do
    if [ ! -e "$1" ] && [ ! -L "$1" ]; then
        { mkdir -p -- "$(dirname -- "$1")" && printf %s "$2" >"$1"; } || status=1
    fi
    shift 2
done
exit $status
"""


def furnish(cell: Cell, sandbox: Sandbox, agent: Agent) -> str | None:
    """Place what the agent's home lacks, before anything else runs inside; returns why not all of it could be.

    Raises:
        OSError: when the cell ends meanwhile.
    """
    wanted = files_of(agent, sandbox)
    if not wanted:
        return None
    words = [word for pair in wanted for word in pair]
    environment = inside.environment(AGENT_USER, {}, None, sandbox.name)
    argv = ("/bin/sh", "-c", _PLACE, "sbx", *words)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        command = cell.start(Command(argv, environment, "/"), (null, null, null))
    finally:
        os.close(null)
    deadline = time.monotonic() + FURNISH_S_MAX
    while (left_s := deadline - time.monotonic()) > 0:
        select.select([cell], [], [], left_s)
        for event in cell.events():
            match event:
                case CellDied(detail):
                    raise OSError(f"the sandbox ended while it started: {detail}")
                case Exited(ended, status, detail) if ended == command:
                    return None if status == 0 else detail or "a file or link stands in the way, or the disk is full"
                case _:
                    continue
    return "it took too long"


def files_of(agent: Agent, sandbox: Sandbox) -> tuple[tuple[str, str], ...]:
    """Return path below the home and text of each file an agent is to find.

    `{workspace}` in a text is the sandbox's workspace, escaped for strings of JSON and TOML alike.
    """
    workspace = json.dumps(sandbox.workspace, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")
    files = [(path, text.replace(WORKSPACE, workspace)) for path, text in agent.files]
    if agent.instructions is not None:
        files.append((agent.instructions, inside.instructions(sandbox.name)))
    return tuple(files)
