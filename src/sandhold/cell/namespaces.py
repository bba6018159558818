"""The namespace kind of cell: opened, used and ended by the session.

Rules:

1. Nothing runs inside before `open_cell` returns, and then only what `start()` asks for.
2. A step that fails ends what was made and raises; there is no cell with a part missing. What the host cannot give at
   all is said in `notes`.
3. `kill()` ends process 1, and with it the kernel ends everything inside. The session's own death does the same.

Call `open_cell` from a thread that lives as long as the cell: the kernel ties process 1 to it.
"""

# ruff: noqa: PTH116, PTH123  # system calls on a tree where pathlib has no words for links and descriptors

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import socket
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from sandhold.cell.channel import Channel
from sandhold.cell.identity import IDS, Identity, identity_for
from sandhold.cell.network import Network, dropped, open_network
from sandhold.cell.plan import Folder, Plan, PlannedFile, PlannedMount, PlannedSeed, to_bytes
from sandhold.cell.spec import AGENT_UID, CellDied, TemplateKind
from sandhold.linux.limits import open_control_group
from sandhold.linux.process import Spawn, spawn_module
from sandhold.linux.syscalls import orphans_adopted
from sandhold.linux.users import IdRange, Maps

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from sandhold.cell.spec import CellEvent, CellSockets, CellSpec, Command, CommandId, DroppedCount
    from sandhold.linux.limits import ControlGroup
    from sandhold.linux.process import Child
    from sandhold.linux.sock_diag import SocketOwners
    from sandhold.linux.users import IdMap
    from sandhold.model.sandbox import Mount

STARTING_TIMEOUT_S: Final = 60.0  # takes 60 ms; a cold disk under load gets patience, a stuck one an error
ENDING_TIMEOUT_S: Final = 20.0  # the kernel ends thousands of processes in well under a second
MESSAGE_BYTES_MAX: Final = 4096
LAUNCHER: Final = "sandhold.cell.launch"
TMP_BYTES_MAX: Final = 4 << 30  # `/tmp` and `/dev/shm`, each; builds unpack there
_RESERVED: Final = ("/", "/proc", "/dev", "/sys", "/etc", "/usr", "/run", "/tmp", "/home", "/bin", "/lib", "/sbin")  # noqa: S108
_NO_FOLDER_BELOW: Final = ("/proc/", "/dev/", "/sys/")


@dataclass(frozen=True, slots=True)
class Holds:
    """What a session holds of a cell: descriptors of process 1 and of its mount namespace."""

    process: int
    mounts: int

    def close(self) -> None:
        """Let go of both."""
        os.close(self.process)
        os.close(self.mounts)


class NamespacesCell:
    """A live cell. It is what `spec.Cell` says."""

    def __init__(self, network: Network, holds: Holds, channel: Channel, group: ControlGroup | None) -> None:
        self._network = network
        self._holds = holds
        self._channel = channel
        self._group = group
        self._is_killed = False
        self._has_died = False
        self.notes: tuple[str, ...] = ()

    @property
    def sockets(self) -> CellSockets:
        """What its network leads to."""
        return self._network.sockets

    @property
    def owners(self) -> SocketOwners | None:
        """Tells whose a connection is, where that can be told."""
        return self._network.owners

    @property
    def mounts(self) -> tuple[int, ...]:
        """Descriptors of its mount namespace and, where that is not the host's, of the user namespace it belongs to."""
        user = self._network.namespaces.user
        return (self._holds.mounts,) if user is None else (self._holds.mounts, user)

    @property
    def tap(self) -> int | None:
        """The cable of the tap device, where the cell has one."""
        return self._network.tap

    def fileno(self) -> int:
        """Return a descriptor that is readable when `events()` has news."""
        return self._channel.fileno()

    def start(self, command: Command, streams: tuple[int, int, int] | None, extras: Sequence[int] = ()) -> CommandId:
        """Start a command on these descriptors, or on a new terminal; `extras` are its descriptors 3 and on.

        Raises:
            ValueError: when no such command can be started: an unknown user, a zero byte, too large.
            OSError: when the cell is gone.
        """
        return self._channel.start(command, streams, extras)

    def events(self) -> list[CellEvent]:
        """Return what happened since the last call; a cell that breaks its protocol is killed and has died."""
        if self._is_killed or self._has_died:
            return []
        events = self._channel.receive()
        if events and isinstance(events[-1], CellDied):
            self._has_died = True
            self.end_processes()
        return events

    def signal(self, command: CommandId, signum: int) -> None:
        """Send a signal to a command's process group."""
        self._channel.signal(command, signum)

    def dropped(self) -> tuple[DroppedCount, ...]:
        """Return the totals of packets that went nowhere; also after the last process ended, until `kill()`."""
        return dropped(self._network.namespaces)

    def kill(self) -> None:
        """End every process inside, wait for that, and let go of the network.

        Raises:
            TimeoutError: when the kernel has not ended them within `ENDING_TIMEOUT_S`.
        """
        if self._is_killed:
            return
        self.end_processes()
        self._is_killed = True
        self._holds.close()
        self._channel.close()
        self._network.close()
        if self._group is not None:
            self._group.remove()

    def end_processes(self) -> None:
        """End every process inside and keep the network, whose counters can still be read.

        Raises:
            TimeoutError: when the kernel has not ended them within `ENDING_TIMEOUT_S`.
        """
        _end_process(self._holds.process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def open_cell(spec: CellSpec, spawn: Spawn = spawn_module, *, has_tap: bool = False) -> NamespacesCell:
    """Make a cell by rules 1 and 2, with a tap device in its network when a machine is to run in it.

    Raises:
        OSError: when a step fails, with what failed and, where there is a usual one, its cause.
        ValueError: when the specification asks for what no cell can have.
    """
    identity = identity_for(spec.slot)
    plan, notes = _plan(spec, identity)
    with contextlib.ExitStack() as undo, orphans_adopted():
        network = open_network(identity, spawn, has_tap=has_tap)
        undo.callback(network.close)
        group = open_control_group(spec.name, spec.limits)
        if group is not None:
            undo.callback(group.remove)
        ours, child = _spawn(spawn, plan, network)
        undo.callback(ours.close)
        undo.callback(_end_child, child)
        holds = _hold(ours, child, group)
        undo.callback(holds.close)
        undo.callback(_end_process, holds.process)
        _await_ready(ours)
        undo.pop_all()
    cell = NamespacesCell(network, holds, Channel(ours), group)
    cell.notes = (*identity.notes, *notes, *_limit_notes(spec, group))
    return cell


def planned_files(spec: CellSpec) -> tuple[PlannedFile, ...]:
    """Return a cell's injected files as plans hold them."""
    return tuple(
        PlannedFile(str(one.path), _base64(one.content), one.mode, AGENT_UID if one.is_agents else 0)
        for one in spec.files
    )


def planned_seeds(spec: CellSpec) -> tuple[PlannedSeed, ...]:
    """Return a cell's seeds as plans hold them."""
    return tuple(
        PlannedSeed(
            str(one.path),
            _base64(one.content),
            one.seeding.value,
            _base64(one.marker),
            AGENT_UID if one.is_agents else 0,
        )
        for one in spec.seeds
    )


def _plan(spec: CellSpec, identity: Identity) -> tuple[Plan, tuple[str, ...]]:
    notes = []
    if spec.template.kind is TemplateKind.HOST and identity.base is None:
        notes.append(
            "programs of the host's root have no set-id bits here: `sudo` and package installation need a template"
        )
    spec.layer.mkdir(mode=0o700, parents=True, exist_ok=True)
    spec.layer.chmod(0o700)
    mounts = (*spec.mounts, *spec.guarded)
    paths = [str(mount.path) for mount in mounts]
    if len(set(paths)) != len(paths):
        raise ValueError("a folder is mounted twice")
    plan = Plan(
        parent=os.getpid(),
        name=spec.name,
        base=identity.base,
        is_single=identity.is_single,
        is_host_kind=spec.template.kind is TemplateKind.HOST,
        template=Folder.look(os.path.realpath(spec.template.root)),
        layer=Folder.look(os.path.realpath(spec.layer)),
        inner=identity.inner,
        mounts=tuple(_planned_mount(mount, identity) for mount in mounts),
        files=planned_files(spec),
        pids=spec.limits.pids,
        tmp_bytes=min(TMP_BYTES_MAX, spec.limits.memory or TMP_BYTES_MAX),
        seeds=planned_seeds(spec),
        template_layers=tuple(Folder.look(os.path.realpath(layer)) for layer in spec.template.layers),
        devices=spec.devices,
    )
    return plan, tuple(notes)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _planned_mount(mount: Mount, identity: Identity) -> PlannedMount:
    path = str(mount.path)
    if not path.startswith("/") or path != os.path.normpath(path):
        raise ValueError(f"`{path}` is no absolute path in its plain form")
    if path in _RESERVED or path.startswith(_NO_FOLDER_BELOW):
        raise ValueError(f"`{path}` is part of every sandbox and cannot be a folder of the host's")
    folder = Folder.look(path, is_file=mount.is_file)
    status = os.stat(path, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode) is mount.is_file:
        raise ValueError(f"`{path}` is no {'file' if mount.is_file else 'folder'}")
    if identity.base is None:
        return PlannedMount(folder, mount.is_read_only, None)
    maps = Maps(_owner_is_agent(status.st_uid, identity.base), _owner_is_agent(status.st_gid, identity.base))
    return PlannedMount(folder, mount.is_read_only, maps)


def _owner_is_agent(owner: int, base: int) -> IdMap:
    """Show the owner on disk as the agent; what other ids inside make belongs to ids that nobody on the host has."""
    if base <= owner < base + IDS:
        return (IdRange(base, base, IDS),)
    agent = base + AGENT_UID
    return (
        IdRange(owner, agent, 1),
        IdRange(base, base, AGENT_UID),
        IdRange(agent + 1, agent + 1, IDS - AGENT_UID - 1),
    )


def _spawn(spawn: Spawn, plan: Plan, network: Network) -> tuple[socket.socket, Child]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = os.memfd_create("plan", os.MFD_CLOEXEC)
    with theirs, open(fd, "wb+", buffering=0) as file:
        file.write(to_bytes(plan))
        file.seek(0)
        fds = [theirs.fileno(), fd, network.namespaces.network]
        if network.namespaces.user is not None:
            fds.append(network.namespaces.user)
        try:
            child = spawn(LAUNCHER, fds)
        except BaseException:
            ours.close()
            raise
    ours.settimeout(STARTING_TIMEOUT_S)
    return ours, child


def _hold(link: socket.socket, child: Child, group: ControlGroup | None) -> Holds:
    """Put the launcher under its limits, let it go on, and return descriptors of process 1 and its mount namespace.

    The launcher has ended then, and process 1 is a child of this process.
    """
    if group is not None:
        group.add(child.pid)
    link.send(b'{"go": true}')
    process = _expect_one(link, "process")
    try:
        child.wait(STARTING_TIMEOUT_S)
        return Holds(process, _expect_one(link, "mounts"))
    except BaseException:
        _end_process(process)
        os.close(process)
        raise


def _expect_one(link: socket.socket, word: str) -> int:
    fds = _expect(link, word)
    if len(fds) == 1:
        return fds[0]
    for fd in fds:
        os.close(fd)
    raise OSError(f"a sandbox that starts sent {len(fds)} descriptors for `{word}`")


def _await_ready(link: socket.socket) -> None:
    if _expect(link, "ready"):
        raise OSError("process 1 sent what nobody asked for")


def _expect(link: socket.socket, word: str) -> list[int]:
    try:
        message, fds, _, _ = socket.recv_fds(link, MESSAGE_BYTES_MAX, 4, socket.MSG_CMSG_CLOEXEC)
    except TimeoutError:
        raise OSError("the sandbox did not start in time") from None
    said = json.loads(message) if message else {"failed": "its process ended"}
    if said.get(word) is True:
        return fds
    for fd in fds:
        os.close(fd)
    raise OSError(f"cannot start the sandbox: {said.get('failed', 'its process said something else')}")


def _end_child(child: Child) -> None:
    child.kill()
    child.wait(ENDING_TIMEOUT_S)


def _end_process(process: int) -> None:
    """End process 1, wait until everything inside has ended, and leave nothing that waits to be looked after."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    poll = select.poll()
    poll.register(process, select.POLLIN)
    if not poll.poll(ENDING_TIMEOUT_S * 1000):
        raise TimeoutError("the sandbox's processes did not end in time")
    with contextlib.suppress(ChildProcessError):  # it has been, or a launcher that did not end is still its parent
        os.waitid(os.P_PIDFD, process, os.WEXITED)


def _limit_notes(spec: CellSpec, group: ControlGroup | None) -> list[str]:
    controllers = group.controllers if group is not None else frozenset()
    notes = []
    if spec.limits.memory is not None and "memory" not in controllers:
        notes.append("memory is not limited: this user may not make control groups here")
    if spec.limits.cpus is not None and "cpu" not in controllers:
        notes.append("processor time is not limited: this user may not make control groups here")
    if "pids" not in controllers:
        notes.append("processes are limited only by their numbers, on Linux 6.14 and later")
    return notes
