"""New sandboxes: what was asked for, checked, made and stored; and deleted again, never the workspace."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from sandhold.agents.definitions import agent_names, load_agent
from sandhold.cell.images.templates import DEBIAN_TEMPLATE
from sandhold.errors import EXIT_USAGE, SbxError
from sandhold.model.sandbox import PROTECTED, Isolation, Limits, Mount, Sandbox
from sandhold.model.sandbox_name import default_name, is_sandbox_name
from sandhold.session.furnish.variables import NO_VARIABLES, Variables
from sandhold.store import sandboxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandhold.agents.parsing import Agent
    from sandhold.paths import Paths
    from sandhold.store.database import Database

PIDS_DEFAULT: Final = 4096  # a parallel build starts hundreds; a fork bomb stops here
MEMORY_SHARE_DEFAULT: Final = 0.5  # of the host's memory, so that the host stays usable whatever happens inside
MEMORY_MIN: Final = 64 * 1024 * 1024  # below this not even a shell starts
MACHINE_MEMORY_MIN: Final = 256 * 1024 * 1024  # a kernel of its own, and what starts commands
MACHINE_MEMORY_MAX_DEFAULT: Final = 4 << 30  # a kernel keeps books over all it is given, used or not

_SYSTEM: Final = (
    "/",
    "/etc",
    "/usr",
    "/var",
    "/bin",
    "/sbin",
    "/lib",
    "/opt",
    "/home",
    "/root",
    "/tmp",  # noqa: S108 - named to be refused
    "/srv",
    "/mnt",
)
_KERNEL: Final = ("/proc", "/sys", "/dev", "/run", "/boot")  # nothing below these is a project either
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kmgt]?)i?b?")
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A sandbox as it was asked for; None where nothing was said."""

    agent: str
    paths: tuple[str, ...]
    name: str | None = None
    isolation: str = "auto"
    needs_hardware: bool = False
    template: str | None = None
    cpus: float | None = None
    memory: str | None = None
    variables: Variables = NO_VARIABLES
    anchor: str | None = None
    protected: tuple[str, ...] = PROTECTED


def plan(wanted: Wanted, paths: Paths) -> Sandbox:
    """Check what was asked for and fill in the rest; nothing is made yet.

    Raises:
        SbxError: when a name, path, limit or isolation is not one that can be had, saying what can.
    """
    mounts = parse_mounts(wanted.paths or (".",), paths)
    name = wanted.name if wanted.name is not None else default_name(wanted.agent, mounts[0].path.name)
    check_name(name)
    if name in agent_names(paths.agents):
        raise SbxError(
            f"`{name}` is the name of an agent, and `sbx run {name}` could mean either",
            hint=f"for example `--name {name}-1`",
            status=EXIT_USAGE,
        )
    template = wanted.template or template_of(load_agent(wanted.agent, paths.agents))
    from sandhold.session import isolation  # noqa: PLC0415  a session imports this module, and chooses nothing

    kind = isolation.choose(paths, wanted.isolation, template, needs_hardware=wanted.needs_hardware)
    return Sandbox(
        name=name,
        agent=wanted.agent,
        isolation=kind,
        template=template,
        mounts=mounts,
        limits=limits(wanted.cpus, wanted.memory, kind),
        environment=wanted.variables.valued,
        slot=0,
        created_at=time.time(),
        host_variables=wanted.variables.named,
        anchor=None if wanted.anchor is None else _anchor(wanted.anchor, mounts),
        protected=wanted.protected,
        needs_hardware=wanted.needs_hardware,
    )


def _anchor(text: str, mounts: tuple[Mount, ...]) -> str:
    from sandhold.session.anchoring import parse_anchor  # noqa: PLC0415  with trails and policies; few give an anchor

    return parse_anchor(text, mounts)


def limits(cpus: float | None = None, memory: str | None = None, kind: Isolation = Isolation.NAMESPACES) -> Limits:
    """Return the limits of a new sandbox of that kind; what is not given is the default.

    Raises:
        SbxError: when one is none that can be had.
    """
    return Limits(_cpus(cpus), _memory(memory, kind), PIDS_DEFAULT)


def template_of(agent: Agent) -> str:
    """Return the template that an agent starts from: one of its own name where its file says what it needs."""
    return DEBIAN_TEMPLATE if agent.recipe is None else agent.name


def make(database: Database, paths: Paths, sandbox: Sandbox) -> Sandbox:
    """Store a planned sandbox and make its folder.

    Raises:
        NameTakenError: when the name is in use.
    """
    stored = sandboxes.add(database, sandbox)
    paths.sandbox(sandbox.name).mkdir(mode=0o700, parents=True, exist_ok=True)
    return stored


def check_name(name: str) -> None:
    """Check a sandbox's name.

    Raises:
        SbxError: when it is none.
    """
    if not is_sandbox_name(name):
        raise SbxError(
            f"`{name}` cannot name a sandbox",
            hint="use up to 63 of `a-z 0-9 _ . -`, starting with a letter or a digit",
            status=EXIT_USAGE,
        )


def parse_mounts(texts: Sequence[str], paths: Paths) -> tuple[Mount, ...]:
    """Read `PATH[:ro]` for each text; the first is the workspace.

    Raises:
        SbxError: when one is no folder, is a folder that nothing inside may see, or is named twice.
    """
    mounts: list[Mount] = []
    for text in texts:
        path_text, is_read_only = (text[:-3], True) if text.endswith(":ro") else (text, False)
        mount = Mount(_folder(path_text, paths), is_read_only)
        if any(mount.path == other.path for other in mounts):
            raise SbxError(f"`{mount.path}` is named twice", status=EXIT_USAGE)
        mounts.append(mount)
    return tuple(mounts)


def _folder(text: str, paths: Paths) -> PurePosixPath:
    try:
        folder = Path(text).expanduser().resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise SbxError(f"`{text}` is no folder that can be opened", status=EXIT_USAGE) from error
    if not folder.is_dir():
        raise SbxError(f"`{text}` is not a folder", hint="name the folder that holds it", status=EXIT_USAGE)
    if str(folder) in _SYSTEM or any(folder.is_relative_to(kernel) for kernel in _KERNEL):
        raise SbxError(f"`{folder}` belongs to the system", hint="name a project's folder", status=EXIT_USAGE)
    for ours in (paths.state, paths.data, paths.config):
        if _is_inside(ours, folder) or _is_inside(folder, ours):
            raise SbxError(
                f"`{folder}` holds sbx's own files (`{ours}`), which no sandbox may see",
                hint="name a project's folder, not the home folder",
                status=EXIT_USAGE,
            )
    return PurePosixPath(folder)


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a path leads into a folder, however either is written: links are followed, and folders are told apart by
    device and inode, so that a second mount of one is the same."""
    if not folder.exists():
        return path.resolve().is_relative_to(folder.resolve())
    real = path.resolve()
    return any(each.exists() and each.samefile(folder) for each in (real, *real.parents))


def _cpus(cpus: float | None) -> float | None:
    if cpus is not None and not 0.01 <= cpus <= (os.cpu_count() or 1):
        raise SbxError(f"`--cpus {cpus:g}` is not between 0.01 and {os.cpu_count()}", status=EXIT_USAGE)
    return cpus


def _memory(text: str | None, kind: Isolation) -> int:
    least = MEMORY_MIN if kind is Isolation.NAMESPACES else MACHINE_MEMORY_MIN
    if text is None:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        most = int(total * MEMORY_SHARE_DEFAULT)
        return most if kind is Isolation.NAMESPACES else max(least, min(most, MACHINE_MEMORY_MAX_DEFAULT))
    match = _SIZE.fullmatch(text.lower())
    if match is None:
        raise SbxError(f"`--memory {text}` is no size", hint="for example `512m` or `4g`", status=EXIT_USAGE)
    size = int(float(match[1]) * _UNITS[match[2]])
    if size < least:
        raise SbxError(f"`--memory {text}` is less than {least >> 20}m", status=EXIT_USAGE)
    return size
