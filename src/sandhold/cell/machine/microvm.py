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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from sandhold.cell.channel import Channel
from sandhold.cell.machine.acceleration import DEVICE
from sandhold.cell.machine.link import printable
from sandhold.cell.machine.parts import MEMORY_DEFAULT, helper_user, open_parts, plug_cable, spawn_link
from sandhold.cell.machine.plan import GuestMount
from sandhold.cell.machine.qemu import Acceleration, Descriptors, command_line, host_clock_khz
from sandhold.cell.namespaces import open_cell
from sandhold.cell.spec import (
    AGENT_HOME,
    AGENT_USER,
    ROOT_USER,
    CellDied,
    Command,
    Exited,
    Template,
    TemplateKind,
)
from sandhold.linux.process import spawn_module
from sandhold.model.sandbox import Limits

if TYPE_CHECKING:
    from types import TracebackType

    from sandhold.cell.boot.boot_files import BootFiles
    from sandhold.cell.namespaces import NamespacesCell
    from sandhold.cell.spec import CellEvent, CellSpec, CommandId, DroppedCount
    from sandhold.linux.process import Child, Spawn

BOOT_S_MAX: Final = 240.0  # four seconds emulated; a machine that is busy with twenty others gets patience
STOP_S_MAX: Final = 30.0  # to write what programs have left unwritten
LINK_END_S_MAX: Final = 5.0  # what the guest said before it ended is on its way
WORDS_BYTES_MAX: Final = 2000
OVERHEAD_BYTES: Final = 768 << 20  # QEMU's own: translated code, buffers of its devices
CPUS_MAX_DEFAULT: Final = min(os.cpu_count() or 1, 8)  # where nothing is said: each costs a guest memory and time
PIDS_MAX: Final = 512  # QEMU's threads: one a processor, and those that serve files
MESSAGE_BYTES_MAX: Final = 4096
OUTER_LAYER: Final = "machine"
_TAIL_BYTES_MAX: Final = 4096  # of what QEMU said


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
    def tcp(self) -> tuple[socket.socket, ...]:
        """Listening sockets, IPv4 and IPv6."""
        return self._outer.tcp

    @property
    def dns_udp(self) -> tuple[socket.socket, ...]:
        """Bound sockets for queries over UDP, IPv4 and IPv6."""
        return self._outer.dns_udp

    @property
    def asker(self) -> socket.socket:
        """A datagram socket inside, connected to nothing, for asking whether egress answers."""
        return self._outer.asker

    @property
    def owners(self) -> None:
        """Tells nothing: a machine's users are its own kernel's."""
        return

    @property
    def dns_tcp(self) -> tuple[socket.socket, ...]:
        """Listening sockets for queries over TCP, IPv4 and IPv6."""
        return self._outer.dns_tcp

    def fileno(self) -> int:
        """Return a descriptor that is readable when `events()` has news."""
        return self._ready.fileno()

    def start(self, command: Command, streams: tuple[int, int, int] | None) -> CommandId:
        """Start a command on these descriptors, or on a new terminal.

        Raises:
            ValueError: when no such command can be started: an unknown user, a zero byte, too large.
            OSError: when the cell is gone.
        """
        if command.user not in (AGENT_USER, ROOT_USER):
            raise ValueError(f"no user `{command.user}` inside; there are `{AGENT_USER}` and `{ROOT_USER}`")
        return self._channel.start(command, streams)

    def events(self) -> list[CellEvent]:
        """Return what happened since the last call; a machine that ended, or broke its protocol, has died."""
        if self._is_killed or self._has_died:
            return []
        events = self._channel.receive()
        has_ended = bool(events) and isinstance(events[-1], CellDied)
        if not has_ended and _has_ended(self._outer.events()):
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
        deadline = time.monotonic() + LINK_END_S_MAX
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
            _end_child(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def open_microvm(
    spec: CellSpec,
    boot: BootFiles,
    acceleration: Acceleration,
    spawn: Spawn = spawn_module,
    *,
    boot_s_max: float = BOOT_S_MAX,
) -> MicrovmCell:
    """Make a cell by rules 1 to 4; its guest has `boot_s_max` to be ready. `spawn` starts what every cell starts.

    Raises:
        OSError: when a step fails, with what failed.
        ValueError: when the specification asks for what no machine can have.
    """
    if spec.template.kind is TemplateKind.HOST:
        raise ValueError("a machine cannot start from the host's own root: its kernel is another one")
    memory = spec.limits.memory or MEMORY_DEFAULT
    mounts = tuple(
        GuestMount(str(mount.path), f"ws{number}", mount.is_read_only) for number, mount in enumerate(spec.mounts)
    )
    with contextlib.ExitStack() as undo:
        spec.layer.mkdir(mode=0o700, parents=True, exist_ok=True)
        outer = undo.enter_context(open_cell(_outer_spec(spec, memory, acceleration), spawn, has_tap=True))
        channel, link_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(channel.close)
        words = os.memfd_create("words", os.MFD_CLOEXEC)
        undo.callback(os.close, words)
        with contextlib.ExitStack() as given:
            given.enter_context(link_end)
            port, port_end = _pair(given)
            console, console_end = _pair(given)
            cable, shuttles = plug_cable(spec, outer, given)
            link = spawn_link(spec, mounts, (link_end, port, console), words)
            for child in (helpers := (link, *shuttles)):
                undo.callback(_end_child, child)
            parts = open_parts(spec, boot, (cable, port_end.fileno(), console_end.fileno()), given)
            cpus = spec.limits.cpus or CPUS_MAX_DEFAULT
            line = command_line(acceleration, cpus, memory, mounts, host_clock_khz(), has_tap=not shuttles)
            machine, said = _start_machine(outer, line, parts)
        with said:
            channel.settimeout(boot_s_max)
            _begin(channel, spec)
            _await_guest(channel, outer, (said.fileno(), words), boot_s_max)
        undo.pop_all()
    cell = MicrovmCell(outer, machine, helpers, Channel(channel), words)
    cell.notes = tuple(note for note in outer.notes if "`sudo`" not in note)
    return cell


def _outer_spec(spec: CellSpec, memory: int, acceleration: Acceleration) -> CellSpec:
    """Return the cell that QEMU runs in: its own empty layer, the sandbox's folders, and room for QEMU itself."""
    return replace(
        spec,
        template=Template(TemplateKind.HOST, Path("/")),
        layer=spec.layer / OUTER_LAYER,
        files=(),
        seeds=(),
        limits=Limits(spec.limits.cpus, memory + OVERHEAD_BYTES, PIDS_MAX),
        devices=(DEVICE.name,) if acceleration is Acceleration.KVM else (),
    )


def _pair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    return stack.enter_context(ours), stack.enter_context(theirs)


def _start_machine(outer: NamespacesCell, line: tuple[str, ...], parts: Descriptors) -> tuple[CommandId, socket.socket]:
    """Start QEMU; what it says on its standard output and error comes on the socket."""
    said, saying = socket.socketpair()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        environment = (("PATH", "/usr/bin:/bin"), ("HOME", AGENT_HOME), ("LC_ALL", "C"))
        command = Command(line, environment, "/")
        return outer.start(command, (null, saying.fileno(), saying.fileno()), parts.all()), said
    except BaseException:
        said.close()
        raise
    finally:
        saying.close()
        os.close(null)


def _begin(channel: socket.socket, spec: CellSpec) -> None:
    """Let the link begin, as the user that QEMU runs as."""
    channel.send(json.dumps({"parent": os.getpid(), "user": helper_user(spec)}).encode())


def _await_guest(channel: socket.socket, outer: NamespacesCell, said: tuple[int, int], boot_s_max: float) -> None:
    """Wait until the guest can start commands: it says so, it cannot, or QEMU ends. `said` is where QEMU and the link
    leave their last words.

    Raises:
        OSError: in the two other ways, or when it takes too long.
    """
    deadline = time.monotonic() + boot_s_max
    while (left_s := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([channel.fileno(), outer.fileno()], [], [], left_s)
        if outer.fileno() in ready and _has_ended(outer.events()):
            raise OSError(f"the machine did not start: {_last_words(*said)}")
        if channel.fileno() in ready:
            message = channel.recv(MESSAGE_BYTES_MAX)
            answer = json.loads(message) if message else {"failed": _last_words(*said)}
            if answer.get("ready") is True:
                return
            raise OSError(f"the machine did not start: {answer.get('failed')}")
    raise OSError(f"the machine did not start within {boot_s_max:g} seconds")


def _last_words(qemu: int, link: int) -> str:
    """Return what QEMU and the link said last; a guest that ends its QEMU ends the link by that."""
    parts = [os.pread(link, WORDS_BYTES_MAX, 0)]
    if select.select([qemu], [], [], LINK_END_S_MAX)[0]:
        parts.insert(0, os.read(qemu, _TAIL_BYTES_MAX))
    return "; ".join(printable(part.decode("utf-8", "replace")) for part in parts if part) or "it ended without a word"


def _has_ended(events: list[CellEvent]) -> bool:
    return any(isinstance(event, CellDied | Exited) for event in events)


def _await_machine(outer: NamespacesCell, deadline: float) -> None:
    """Wait until QEMU has ended, or the deadline."""
    while (left_s := deadline - time.monotonic()) > 0:
        if not select.select([outer], [], [], left_s)[0] or _has_ended(outer.events()):
            return


def _end_child(child: Child) -> None:
    child.kill()
    child.wait(LINK_END_S_MAX)
