"""The microVM kind of cell: a machine of its own kernel, made by QEMU, which itself runs in a cell of namespaces.

Rules:

1. QEMU is one command of a namespaces cell that starts from the host's own programs, as the agent's user and under the
   same filter, limits and id map as any command in such a cell. A guest that breaks out of QEMU is where an agent in a
   namespaces cell is: the same folders, the same network without a way out, and nothing else.
2. The machine's card ends in a tap device in that cell's network: policy, capture and counting are the same code.
3. All that the guest says comes through a process of its own (`cell/machine/link.py`), which judges it, owning nothing.
4. A step that fails ends what was made and raises. Whichever of the three ends first, the others end too.
5. `kill()` first asks the guest to put everything on disk, for a bounded time; what it does not write by then is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Final, Self

from sandhold.cell.channel import Channel
from sandhold.cell.machine.disk import open_disk
from sandhold.cell.machine.monitor import MonitorError, let_go_on
from sandhold.cell.machine.outer import (
    LAST_WORDS_S_MAX,
    WORDS_BYTES_MAX,
    end_child,
    last_words,
    outer_spec,
    qemu_ended,
    socket_pair,
    start_machine,
)
from sandhold.cell.machine.parts import helper_user, open_parts, plug_cable, spawn_link
from sandhold.cell.machine.plan import GuestMount
from sandhold.cell.machine.qemu import Beginning, RefusedError, command_line, host_clock
from sandhold.cell.namespaces import open_cell
from sandhold.cell.spec import CellDied, TemplateKind
from sandhold.linux.process import spawn_module

if TYPE_CHECKING:
    from types import TracebackType

    from sandhold.cell.boot.boot_files import BootFiles
    from sandhold.cell.machine.qemu import Shape
    from sandhold.cell.machine.snapshots import Snapshot
    from sandhold.cell.namespaces import NamespacesCell
    from sandhold.cell.spec import CellEvent, CellSockets, CellSpec, Command, CommandId, DroppedCount
    from sandhold.linux.process import Child, Spawn

BOOT_S_MAX: Final = 240.0  # four seconds emulated; a machine that is busy with twenty others gets patience
RESTORE_S_MAX: Final = 20.0  # to take over what the devices were: a tenth of a second
STOP_S_MAX: Final = 30.0  # to write what programs have left unwritten
MESSAGE_BYTES_MAX: Final = 4096


class MicrovmCell:
    """A live cell. It is what `spec.Cell` says."""

    def __init__(
        self, outer: NamespacesCell, machine: CommandId, helpers: tuple[Child, ...], channel: Channel, words: int
    ) -> None:
        self._outer = outer
        self._machine = machine
        self._helpers = helpers
        self._channel = channel
        self._words = words
        self._has_died = False
        self._is_killed = False
        self._ready = select.epoll()
        self._ready.register(outer.fileno(), select.EPOLLIN)
        self._ready.register(channel.fileno(), select.EPOLLIN)
        self.notes: tuple[str, ...] = ()

    @property
    def sockets(self) -> CellSockets:
        """What its network leads to."""
        return self._outer.sockets

    @property
    def mounts(self) -> tuple[int, ...]:
        """Descriptors of the mount namespace that the machine's folders are served from, and of who owns it."""
        return self._outer.mounts

    @property
    def owners(self) -> None:
        """Tells nothing: a machine's users are its own kernel's."""
        return

    def fileno(self) -> int:
        """Return a descriptor that is readable when `events()` has news."""
        return self._ready.fileno()

    def start(self, command: Command, streams: tuple[int, int, int] | None) -> CommandId:
        """Start a command on these descriptors, or on a new terminal.

        Raises:
            ValueError: when no such command can be started: an unknown user, a zero byte, too large.
            OSError: when the cell is gone.
        """
        return self._channel.start(command, streams)

    def events(self) -> list[CellEvent]:
        """Return what happened since the last call; a machine that ended, or broke its protocol, has died."""
        if self._is_killed or self._has_died:
            return []
        events = self._channel.receive()
        has_ended = bool(events) and isinstance(events[-1], CellDied)
        if not has_ended and qemu_ended(self._outer.events()):
            events += self._rest()
            has_ended = True
        if has_ended:
            self._has_died = True
            events = [*(event for event in events if not isinstance(event, CellDied)), CellDied(self._why())]
            self._end_processes()
        return events

    def signal(self, command: CommandId, signum: int) -> None:
        """Send a signal to a command's process group."""
        self._channel.signal(command, signum)

    def dropped(self) -> tuple[DroppedCount, ...]:
        """Return the totals of packets that went nowhere."""
        return self._outer.dropped()

    def kill(self) -> None:
        """Have everything put on disk (rule 5), end every process, and let go of the network."""
        if self._is_killed:
            return
        if not self._has_died:
            with contextlib.suppress(OSError):
                self._channel.stop()
                _await_machine(self._outer, time.monotonic() + STOP_S_MAX)
        self._end_processes()
        self._is_killed = True
        self._ready.close()
        self._channel.close()
        self._outer.kill()
        os.close(self._words)

    def _rest(self) -> list[CellEvent]:
        """Return what the link still has to say after the machine ended, up to its own end."""
        events: list[CellEvent] = []
        deadline = time.monotonic() + LAST_WORDS_S_MAX
        while not events or not isinstance(events[-1], CellDied):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([self._channel], [], [], left_s)[0]:
                break
            events += self._channel.receive()
        return events

    def _why(self) -> str:
        self._end_helpers()
        said = os.pread(self._words, WORDS_BYTES_MAX, 0).decode("utf-8", "replace")
        return said or "its link ended without a word"

    def _end_processes(self) -> None:
        self._end_helpers()
        self._outer.end_processes()

    def _end_helpers(self) -> None:
        for child in self._helpers:
            end_child(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def open_microvm(
    spec: CellSpec,
    boot: BootFiles,
    shape: Shape,
    spawn: Spawn = spawn_module,
    *,
    boot_s_max: float = BOOT_S_MAX,
    snapshot: Snapshot | None = None,
) -> MicrovmCell:
    """Make a cell by rules 1 to 4, from a snapshot of this shape when there is one; its guest has `boot_s_max` to be
    ready. `spawn` starts what every cell starts.

    Raises:
        OSError: when a step fails, with what failed.
        ValueError: when the specification asks for what no machine can have.
    """
    if spec.template.kind is TemplateKind.HOST:
        raise ValueError("a machine cannot start from the host's own root: its kernel is another one")
    mounts = tuple(
        GuestMount(str(mount.path), f"ws{number}", mount.is_read_only) for number, mount in enumerate(spec.mounts)
    )
    with contextlib.ExitStack() as undo:
        spec.layer.mkdir(mode=0o700, parents=True, exist_ok=True)
        outer = undo.enter_context(open_cell(outer_spec(spec, shape), spawn, has_tap=True))
        channel, link_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(channel.close)
        words = os.memfd_create("words", os.MFD_CLOEXEC)
        undo.callback(os.close, words)
        with contextlib.ExitStack() as given:
            given.enter_context(link_end)
            port, port_end = socket_pair(given)
            console, console_end = socket_pair(given)
            cable, shuttles = plug_cable(spec, outer, given)
            link = spawn_link(spec, mounts, (link_end, port, console), words)
            for child in (helpers := (link, *shuttles)):
                undo.callback(end_child, child)
            layer = open_disk(spec.layer)
            given.callback(os.close, layer)
            ends: tuple[int, ...] = (cable, port_end.fileno(), console_end.fileno())
            control = None
            if snapshot is not None:
                control, more = _open_snapshot(snapshot, shape, given)
                ends += more
            parts = open_parts(boot, layer, ends, given)
            beginning = Beginning.BOOT if snapshot is None else Beginning.RESTORED
            line = command_line(shape, mounts, host_clock(), has_tap=not shuttles, beginning=beginning)
            machine, said = start_machine(outer, line, parts)
            undo.enter_context(said)
            if snapshot is not None and control is not None:
                _restore(snapshot, control, said)
        channel.settimeout(boot_s_max)
        _begin(channel, spec, waits=snapshot is not None)
        note = _await_guest(channel, outer, (said.fileno(), words), boot_s_max)
        said.close()
        undo.pop_all()
    cell = MicrovmCell(outer, machine, helpers, Channel(channel), words)
    cell.notes = tuple(each for each in outer.notes if "`sudo`" not in each)
    if note:
        cell.notes = (f"the guest says: {note}", *cell.notes)
    return cell


def _open_snapshot(
    snapshot: Snapshot, shape: Shape, stack: contextlib.ExitStack
) -> tuple[socket.socket, tuple[int, int]]:
    """Return our end of the machine's monitor, and what the machine is given: its memory, and the other end."""
    memory = snapshot.open_memory(shape.memory)
    stack.callback(os.close, memory)
    control, control_end = socket_pair(stack)
    return control, (memory, control_end.fileno())


def _restore(snapshot: Snapshot, control: socket.socket, said: socket.socket) -> None:
    """Let the machine go on from its snapshot; its monitor is of no use any more."""
    state = snapshot.open_state()
    try:
        let_go_on(control, state, RESTORE_S_MAX)
    except (MonitorError, RefusedError) as error:
        raise OSError(f"{error}: {last_words(said.fileno())}") from error
    finally:
        os.close(state)


def _begin(channel: socket.socket, spec: CellSpec, *, waits: bool) -> None:
    """Let the link begin, as the user that QEMU runs as, with a guest that waits for its plan or will."""
    channel.send(json.dumps({"parent": os.getpid(), "user": helper_user(spec), "waits": waits}).encode())


def _await_guest(channel: socket.socket, outer: NamespacesCell, said: tuple[int, int], boot_s_max: float) -> str:
    """Wait until the guest can start commands: it says so, it cannot, or QEMU ends. `said` is where QEMU and the link
    leave their last words. Returns what the guest had to mend first, a stranger's words; empty when nothing.

    Raises:
        OSError: in the two other ways, or when it takes too long.
    """
    deadline = time.monotonic() + boot_s_max
    while (left_s := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([channel.fileno(), outer.fileno()], [], [], left_s)
        if outer.fileno() in ready and qemu_ended(outer.events()):
            raise OSError(f"the machine did not start: {last_words(*said)}")
        if channel.fileno() in ready:
            message = channel.recv(MESSAGE_BYTES_MAX)
            answer = json.loads(message) if message else {"failed": last_words(*said)}
            if answer.get("ready") is True:
                return str(answer["note"])
            raise OSError(f"the machine did not start: {answer.get('failed')}")
    raise OSError(f"the machine did not start within {boot_s_max:g} seconds")


def _await_machine(outer: NamespacesCell, deadline: float) -> None:
    """Wait until QEMU has ended, or the deadline."""
    while (left_s := deadline - time.monotonic()) > 0:
        if not select.select([outer], [], [], left_s)[0] or qemu_ended(outer.events()):
            return
