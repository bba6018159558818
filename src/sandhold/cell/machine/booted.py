"""A machine of nobody's, booted up to where it waits for a plan: what a snapshot is made of, and a trial of a host.

Rules:

1. Nothing of any sandbox's is in it: no folder, no disk that was ever written to, no plan; its card ends in a network
   that nobody answers in.
2. It has ended when this returns, and it has a bounded time.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.cell import tree
from sandhold.cell.identity import SLOTS_MAX
from sandhold.cell.machine import snapshots
from sandhold.cell.machine.frames import Frame, FrameError, FrameReader, Kind
from sandhold.cell.machine.monitor import Monitor
from sandhold.cell.machine.outer import (
    end_child,
    end_of_machine,
    last_words,
    outer_spec,
    qemu_ended,
    socket_pair,
    start_machine,
)
from sandhold.cell.machine.parts import open_parts, plug_cable
from sandhold.cell.machine.qemu import Beginning, command_line, host_clock
from sandhold.cell.namespaces import open_cell
from sandhold.cell.spec import CellSpec, Template, TemplateKind
from sandhold.linux.locks import locked
from sandhold.model.sandbox import Limits

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from sandhold.cell.boot.boot_files import BootFiles
    from sandhold.cell.machine.qemu import Shape
    from sandhold.cell.namespaces import NamespacesCell

BOOT_S_MAX: Final = 120.0  # four seconds emulated; a host that is busy with twenty others gets patience
KEEP_S_MAX: Final = 60.0  # to stop it and write down what its devices are: a tenth of a second
SLOT: Final = SLOTS_MAX - 1  # the user ids of a sandbox that no installation has come to
PORT_BYTES_MAX: Final = 4096  # at once; the agent says one frame
_NAME: Final = "snapshot"
_PIDS: Final = 64
_PLACE: Final = ".making"
_LOCK: Final = ".lock"
_NO_WAIT_S: Final = 0.0


def make_snapshot(vm: Path, boot: BootFiles, shape: Shape, name: str) -> bool:
    """Boot a machine and keep it as the snapshot of this name; False when another command is at one.

    Raises:
        RefusedError: when QEMU makes no such machine, or keeps none.
        OSError: when it does not boot, or cannot be kept.
    """
    with contextlib.ExitStack() as stack:
        try:
            place = stack.enter_context(_place(vm, _NO_WAIT_S))
        except TimeoutError:
            return False
        if snapshots.find(vm, name) is not None:
            return True  # somebody was quicker
        memory = snapshots.new_memory(shape.memory)
        stack.callback(os.close, memory)
        with _machine(place, boot, shape, memory, BOOT_S_MAX) as control:
            monitor = Monitor(control, KEEP_S_MAX)
            monitor.greet()
            monitor.stop()
            state = _state_of(monitor)
        snapshots.keep(vm, name, memory, state)
    return True


def try_machine(vm: Path, boot: BootFiles, shape: Shape, boot_s_max: float) -> None:
    """Boot a machine and end it.

    Raises:
        OSError: when it does not boot within that time.
        TimeoutError: when another command keeps at one.
    """
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(_place(vm, BOOT_S_MAX))
        memory = snapshots.new_memory(shape.memory)
        stack.callback(os.close, memory)
        stack.enter_context(_machine(place, boot, shape, memory, boot_s_max))


@contextlib.contextmanager
def _place(vm: Path, wait_s: float) -> Iterator[Path]:
    """Be the only one who has a machine of nobody's: gives a folder for it, and deletes what a killed one left."""
    folder = vm / snapshots.FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = folder / _PLACE
    with (folder / _LOCK).open("wb") as lock, locked(lock.fileno(), wait_s):
        tree.delete_tree(place)
        place.mkdir(mode=0o700)
        try:
            yield place
        finally:
            tree.delete_tree(place)


@contextlib.contextmanager
def _machine(place: Path, boot: BootFiles, shape: Shape, memory: int, boot_s_max: float) -> Iterator[socket.socket]:
    """Give the monitor of a machine that has booted into this memory and waits for its plan (rules 1 and 2)."""
    template = Template(TemplateKind.HOST, Path("/"))
    spec = CellSpec(_NAME, template, place, (), (), Limits(shape.cpus, None, _PIDS), SLOT)
    with contextlib.ExitStack() as stack:
        outer = stack.enter_context(open_cell(outer_spec(spec, shape), has_tap=True))
        ours, port = socket_pair(stack)
        _, console = socket_pair(stack)
        control, control_end = socket_pair(stack)
        cable, shuttles = plug_cable(spec, outer, stack)
        for child in shuttles:
            stack.callback(end_child, child)
        ends = (cable, port.fileno(), console.fileno(), memory, control_end.fileno())
        parts = open_parts(boot, _blank_disk(shape.disk, stack), ends, stack)
        mounts = snapshots.empty_shares(shape)
        is_tap = not shuttles
        line = command_line(shape, mounts, host_clock(), has_tap=is_tap, beginning=Beginning.TO_KEEP)
        _, said = start_machine(outer, line, parts)
        stack.enter_context(said)
        _await_waiting(ours, outer, said, boot_s_max)
        yield control


def _blank_disk(size: int, stack: contextlib.ExitStack) -> int:
    """Return a disk that holds nothing; a guest that waits has not looked at more than its first bytes."""
    disk = snapshots.new_memory(size)
    stack.callback(os.close, disk)
    return disk


def _await_waiting(port: socket.socket, outer: NamespacesCell, said: socket.socket, boot_s_max: float) -> None:
    deadline = time.monotonic() + boot_s_max
    reader = FrameReader()
    while (left_s := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([port.fileno(), outer.fileno()], [], [], left_s)
        if outer.fileno() in ready and qemu_ended(events := outer.events()):
            raise end_of_machine(events, last_words(said.fileno()))
        if port.fileno() in ready:
            data = port.recv(PORT_BYTES_MAX)
            try:
                frames = reader.feed(data)
            except FrameError as error:
                raise OSError(f"the machine did not start: its guest says {error}") from error
            if frames == [Frame(Kind.WAITING, 0)]:
                return
            if frames or not data:
                raise OSError(f"the machine did not start: {_complaint(frames) or last_words(said.fileno())}")
    raise OSError(f"the machine did not start within {boot_s_max:g} seconds")


def _complaint(frames: list[Frame]) -> str:
    return next((repr(frame.payload[:500]) for frame in frames if frame.kind is Kind.FAILED), "")


def _state_of(monitor: Monitor) -> bytes:
    """Return what the devices of a stopped machine are."""
    read, write = os.pipe2(os.O_CLOEXEC)
    with open(read, "rb", buffering=0) as state:  # noqa: PTH123
        try:
            monitor.write_state(write)
        finally:
            os.close(write)
        data = _read_all(state.fileno())
    monitor.await_written()
    return data


def _read_all(fd: int) -> bytes:
    """Read until QEMU, the only writer, has ended or closed it."""
    deadline = time.monotonic() + KEEP_S_MAX
    parts = list[bytes]()
    while (left_s := deadline - time.monotonic()) > 0:
        if not select.select([fd], [], [], left_s)[0]:
            continue
        part = os.read(fd, PORT_BYTES_MAX * 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
        if sum(map(len, parts)) > snapshots.STATE_BYTES_MAX:
            raise OSError("the state of the machine's devices is larger than any")
    raise OSError("QEMU did not write the machine's state in time")
