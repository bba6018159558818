"""What a cell is made from, and what a session can do with one, whichever kind it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType, Protocol, Self

if TYPE_CHECKING:
    import socket
    from ipaddress import IPv4Address, IPv6Address
    from pathlib import Path, PurePosixPath
    from types import TracebackType

    from sandhold.linux.sock_diag import SocketOwners
    from sandhold.model.sandbox import Limits, Mount

AGENT_USER = "agent"
AGENT_UID = 1000
ROOT_USER = "root"
EXTRAS_MAX: Final = 16  # descriptors that a command is given beside its streams: a machine's parts are a dozen

CommandId = NewType("CommandId", int)
"""Numbers the commands of one cell, from 1."""


class TemplateKind(StrEnum):
    """Where the root file system comes from."""

    DIRECTORY = "directory"
    """A whole root file system of its own in a folder."""
    LAYER = "layer"
    """What was installed over another template, kept as the upper folder of an overlay."""
    HOST = "host"
    """The host's programs (`/usr`, `/opt`, a safe part of `/etc`) under a private writable layer."""


@dataclass(frozen=True, slots=True)
class Template:
    """A root file system that cells start from; never written to. `root` is `/` for the host kind.

    `layers` lie over a root of the directory kind, the topmost first.
    """

    kind: TemplateKind
    root: Path
    layers: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class InjectedFile:
    """A file that stands read-only over the root file system: the resolver's configuration, the host's name, a CA.

    A symbolic link at `path` is followed inside the root, and the file stands over what it points to. It belongs to
    root, or shows as the agent's for programs that trust no file of another's.
    """

    path: PurePosixPath
    content: bytes
    mode: int = 0o644
    is_agents: bool = False


class Seeding(StrEnum):
    """What a seed does to what stands in its place."""

    LINK = "link"
    """A symbolic link to `content` is made where nothing stands, or an empty file."""
    APPEND = "append"
    """The PEM blocks of `content` that the file lacks are added to it; it is made where nothing stands."""
    REPLACE = "replace"
    """A file that is there and lacks the bytes of `marker` is replaced by `content`; none is made."""
    CREATE = "create"
    """A file with `content` is made where nothing stands, or an empty file."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A file that a start puts into the layer, for what programs inside must be able to replace themselves: a package's
    script renames a new file over the old one, which it cannot do where an `InjectedFile` stands. It is
    root's, or the agent's."""

    path: PurePosixPath
    content: bytes
    seeding: Seeding
    marker: bytes = b""
    is_agents: bool = False


@dataclass(frozen=True, slots=True)
class CellSpec:
    """Everything a cell is made from. `name` is its host name; `layer` is the private folder whose content lasts.

    `guarded` lies inside of `mounts` and over them: read-only parts of writable folders, and folders that become mounts
    of their own so that nothing inside can rename them.
    `slot` is the sandbox's number for good: its range of user ids is cut by it. `user` is who commands run as.
    `devices` are names below `/dev` beside those of every cell, for the agent's user.
    """

    name: str
    template: Template
    layer: Path
    mounts: tuple[Mount, ...]
    files: tuple[InjectedFile, ...]
    limits: Limits
    slot: int
    user: str = AGENT_USER
    seeds: tuple[Seed, ...] = ()
    guarded: tuple[Mount, ...] = ()
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """A program to start inside, with exactly this environment. `user` is `agent` or `root`.

    `argv[0]` is looked up on the `PATH` of `environment`, inside. `rows` and `columns` size a terminal made for it.
    """

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    folder: str
    user: str = AGENT_USER
    rows: int = 24
    columns: int = 80


@dataclass(frozen=True, slots=True)
class Started:
    """The command's process exists; `pid` is its number inside."""

    command: CommandId
    pid: int


@dataclass(frozen=True, slots=True)
class TerminalReady:
    """The command's terminal exists; `master` is its other end, a descriptor that the receiver now owns."""

    command: CommandId
    master: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The command ended: its exit status, or 128 plus the signal that ended it (126, 127: it could not be started,
    and `detail` says why)."""

    command: CommandId
    status: int
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class CellDied:
    """The cell ended by itself or broke its protocol; nothing runs inside any more."""

    detail: str


CellEvent = Started | TerminalReady | Exited | CellDied


@dataclass(frozen=True, slots=True)
class DroppedCount:
    """Packets that went nowhere since the cell was made. Address and port are None where the cell only counts."""

    protocol: str
    address: IPv4Address | IPv6Address | None
    port: int | None
    packets: int


@dataclass(frozen=True, slots=True)
class CellSockets:
    """The sockets in a cell's network that everything in it leads to, each for IPv4 and IPv6.

    `tcp` listens for every TCP connection, explicit proxy requests too; `dns_udp` is bound for every DNS query over
    UDP, `dns_tcp` listens for those over TCP. `asker` is a datagram socket, connected to nothing, for asking whether
    egress answers.
    """

    tcp: tuple[socket.socket, ...]
    dns_udp: tuple[socket.socket, ...]
    dns_tcp: tuple[socket.socket, ...]
    asker: socket.socket

    def close(self) -> None:
        """Close all of them."""
        for one in (*self.tcp, *self.dns_udp, *self.dns_tcp, self.asker):
            one.close()


class Cell(Protocol):
    """The live boundary round an agent. Leaving the context is `kill()`."""

    @property
    def sockets(self) -> CellSockets:
        """What its network leads to, which closes with it."""

    @property
    def mounts(self) -> tuple[int, ...]:
        """Descriptors of the mount namespace in which `guarded` stands over the folders and, where that is not the
        host's, of the user namespace it belongs to."""

    @property
    def owners(self) -> SocketOwners | None:
        """Tells which user inside a connection is of; None where that cannot be told, as in a machine."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What this host cannot give, a sentence each, naming the missing facility."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when `events()` has news."""

    def start(self, command: Command, streams: tuple[int, int, int] | None) -> CommandId:
        """Start a command on these three descriptors (they stay the caller's), or with None on a new terminal, whose
        other end comes as `TerminalReady`."""

    def events(self) -> list[CellEvent]:
        """Return what happened since the last call, without waiting. An empty list means nothing yet."""

    def signal(self, command: CommandId, signum: int) -> None:
        """Send a signal to the command's process group; nothing happens when it has ended."""

    def dropped(self) -> tuple[DroppedCount, ...]:
        """Return the totals of packets that went nowhere since the cell was made."""

    def kill(self) -> None:
        """End every process inside and return when they are gone; may be called again."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
