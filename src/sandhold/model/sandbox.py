"""What the user names, lists and stops."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import PurePosixPath

PROTECTED: Final = (".git/hooks", ".git/config")
"""What git runs, or takes programs to run from, whenever its user does anything."""


class Isolation(StrEnum):
    """The kind of cell."""

    NAMESPACES = "namespaces"
    MICROVM = "microvm"


class Status(StrEnum):
    """Asked of the host at each look, never stored. `lost`: its session was killed and nobody has cleaned up yet."""

    RUNNING = "running"
    STOPPED = "stopped"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder of the host that the sandbox sees at the same absolute path; a file only inside of another mount."""

    path: PurePosixPath
    is_read_only: bool
    is_file: bool = False

    def __str__(self) -> str:
        return f"{self.path}:ro" if self.is_read_only else str(self.path)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandbox may use; None is no limit of its own. `memory` is in bytes."""

    cpus: float | None
    memory: int | None
    pids: int


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox as it was created. `created_at` is in seconds since the epoch; `environment` is what `-e` gave
    with a value, `host_variables` names what each command inside gets from the environment of whoever starts it.

    `anchor` is where the heads of its trail are kept besides, a file or `|COMMAND`. `protected` are the patterns of
    what is read-only inside its folders. `needs_hardware` is for a machine that is never to be emulated.

    `slot` numbers sandboxes of one installation for good: ranges of user ids are cut by it. The first mount is the
    workspace.
    """

    name: str
    agent: str
    isolation: Isolation
    template: str
    mounts: tuple[Mount, ...]
    limits: Limits
    environment: tuple[tuple[str, str], ...]
    slot: int
    created_at: float
    host_variables: tuple[str, ...] = ()
    anchor: str | None = None
    protected: tuple[str, ...] = PROTECTED
    needs_hardware: bool = False

    @property
    def workspace(self) -> str:
        """The folder the agent starts in; the root where no folder of the host is seen, as when a template is built."""
        return str(self.mounts[0].path) if self.mounts else "/"
