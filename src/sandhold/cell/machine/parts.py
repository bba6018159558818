"""The parts of a machine, opened and started by the session: what QEMU is given, and the processes beside it."""

from __future__ import annotations

import os
import secrets
import socket
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sandhold.cell.identity import identity_for
from sandhold.cell.machine import plan as guest_plan
from sandhold.cell.machine.code import with_agent
from sandhold.cell.machine.disk import DISK_BYTES_MAX, disk_bytes
from sandhold.cell.machine.frame_shuttle import BUFFER_BYTES
from sandhold.cell.machine.plan import GuestAddress, GuestMount, GuestPlan
from sandhold.cell.machine.qemu import MEMORY_STEP, Descriptors, Shape, whole_cpus
from sandhold.cell.namespaces import planned_files, planned_seeds
from sandhold.cell.spec import AGENT_UID
from sandhold.linux.process import spawn_module
from sandhold.model import cell_addresses

if TYPE_CHECKING:
    import contextlib

    from sandhold.cell.boot.boot_files import BootFiles
    from sandhold.cell.machine.qemu import Acceleration
    from sandhold.cell.namespaces import NamespacesCell
    from sandhold.cell.spec import CellSpec
    from sandhold.linux.process import Child
    from sandhold.model.sandbox import Limits

MEMORY_DEFAULT: Final = 4 << 30  # where nothing is said: the guest's kernel spends a part of whatever it is given
CPUS_MAX_DEFAULT: Final = min(os.cpu_count() or 1, 8)  # where nothing is said: each costs a guest memory and time
TMP_BYTES_MAX: Final = 4 << 30


def plug_cable(spec: CellSpec, outer: NamespacesCell, stack: contextlib.ExitStack) -> tuple[int, tuple[Child, ...]]:
    """Return what QEMU's card is plugged into: the tap device, or where there is none a socket, and what carries frames
    between that and the cell's own card."""
    assert outer.tap is not None, "the cell was opened with one"
    if not stat.S_ISSOCK(os.fstat(outer.tap).st_mode):
        return outer.tap, ()
    ours, theirs = (stack.enter_context(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    link, link_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with link, link_end:
        child = spawn_module("sandhold.cell.machine.frame_shuttle", [outer.tap, ours.fileno(), link_end.fileno()])
        link.send(f"{os.getpid()} {helper_user(spec) or 0}".encode("ascii"))
    return theirs.fileno(), (child,)


def shape_of(spec: CellSpec, acceleration: Acceleration) -> Shape:
    """Return how the machine of a sandbox is made."""
    return replace(first_shape(spec.limits, acceleration), disk=disk_bytes(spec.layer), shares=len(spec.mounts))


def first_shape(limits: Limits, acceleration: Acceleration) -> Shape:
    """Return how the machine of a sandbox with these limits and one folder is made when it starts the first time."""
    cpus = whole_cpus(limits.cpus or CPUS_MAX_DEFAULT)
    memory = (limits.memory or MEMORY_DEFAULT) // MEMORY_STEP * MEMORY_STEP
    return Shape(acceleration, cpus, memory, DISK_BYTES_MAX, shares=1)


def open_parts(boot: BootFiles, layer: int, ends: tuple[int, ...], stack: contextlib.ExitStack) -> Descriptors:
    """Open what the machine is made of, which closes with `stack`, beside its disk; `ends` are its cable, port and
    console, and its memory and monitor where it does not just boot."""

    def held(fd: int) -> int:
        stack.callback(os.close, fd)
        return fd

    return Descriptors(
        held(os.open(boot.kernel, os.O_RDONLY | os.O_CLOEXEC)),
        held(with_agent(boot.initramfs)),
        held(os.open(boot.root_image, os.O_RDONLY | os.O_CLOEXEC)),
        layer,
        *ends,
    )


def spawn_link(spec: CellSpec, mounts: tuple[GuestMount, ...], ends: tuple[socket.socket, ...], words: int) -> Child:
    """Start the process that stands between the session and the guest, with its plan; `ends` are its channel, port and
    console."""
    fd = os.memfd_create("plan", os.MFD_CLOEXEC)
    with open(fd, "wb+", buffering=0) as file:  # noqa: PTH123
        file.write(guest_plan.to_bytes(_plan(spec, mounts)))
        file.seek(0)
        return spawn_module("sandhold.cell.machine.link", [*(end.fileno() for end in ends), fd, words])


def _plan(spec: CellSpec, mounts: tuple[GuestMount, ...]) -> GuestPlan:
    return GuestPlan(
        name=spec.name,
        seed=secrets.token_hex(guest_plan.SEED_BYTES),
        pids=spec.limits.pids,
        tmp_bytes=min(TMP_BYTES_MAX, (spec.limits.memory or MEMORY_DEFAULT) // 2),
        ipv4=GuestAddress(
            str(cell_addresses.GUEST_IPV4), cell_addresses.LINK_PREFIX_IPV4, str(cell_addresses.LINK_IPV4)
        ),
        ipv6=GuestAddress(
            str(cell_addresses.GUEST_IPV6), cell_addresses.LINK_PREFIX_IPV6, str(cell_addresses.LINK_IPV6)
        ),
        mounts=mounts,
        files=planned_files(spec),
        seeds=planned_seeds(spec),
    )


def helper_user(spec: CellSpec) -> int | None:
    """Return the user that a helper becomes: the one that QEMU runs as, None for who we are."""
    base = identity_for(spec.slot).base
    return None if base is None else base + AGENT_UID
