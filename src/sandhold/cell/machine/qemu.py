"""QEMU's command line for one machine. qemu-system-x86_64(1), docs/system/i386/microvm.rst of QEMU.

Rules:

1. Nothing is there that is not named here: no default device, no configuration file, no display; no monitor but
   by rule 4.
2. Everything that the machine is made of but the shared folders is a descriptor that QEMU is started with, so the cell
   it runs in holds no file of ours. The folders are mounted in that cell, read-only ones read-only.
3. QEMU's own filter is on: it can start nothing, gain nothing, and change no limit.
4. A machine that is kept, or restored, has memory that we hold as well, which no other machine has, and a monitor on a
   socket of ours, which is closed before the first instruction of a sandbox's runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.cell.machine.plan import LAYER_SERIAL, PORT_NAME, ROOT_SERIAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandhold.cell.machine.plan import GuestMount

PROGRAM: Final = "/usr/bin/qemu-system-x86_64"
PROCESSOR: Final = "x86_64"  # as the kernel spells it; the guest's kernel and QEMU's machine are for it
MACHINE_PROGRAMS: Final = (
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mkfs.erofs", "erofs-utils"),
    ("mkfs.ext4", "e2fsprogs"),
)
"""What a machine needs on the host, each with the Debian package that has it."""
FIRST_DESCRIPTOR: Final = 3
CARD_ADDRESS: Final = "02:00:00:00:00:02"  # locally administered (IEEE 802); nobody else is on the link
MEMORY_STEP: Final = 1 << 20
CODE_CACHE_MIB: Final = 256  # of translated code; QEMU's own default is a gigabyte that a busy guest fills
_SECONDS_OF_CALIBRATION_HZ: Final = 2_000_000  # kHz of a clock when the host names none; a wrong one boots as well


class RefusedError(OSError):
    """QEMU itself says that it cannot be such a machine or do this with it, as it will the next time."""


class Acceleration(StrEnum):
    """How the guest's instructions run. Another host's own (`hvf`) would be one more line here."""

    KVM = "kvm"
    """By the processor itself."""
    TCG = "tcg"
    """Translated by QEMU: any host can, some ten times slower."""


class Board(StrEnum):
    """What the machine is like, as QEMU calls it; the value ends the names of its devices' drivers."""

    MICROVM = "device"
    """Little more than a processor: quick to start, and the least of QEMU that a guest can reach."""
    Q35 = "pci"
    """A computer, which every QEMU can be: for where the other is not there, or does not boot."""


class Beginning(StrEnum):
    """What a machine begins with."""

    BOOT = "boot"
    """A kernel."""
    TO_KEEP = "to keep"
    """A kernel, in memory that we hold as well; it is stopped and kept as a snapshot."""
    RESTORED = "restored"
    """Memory in which a kernel has started, and what the devices were then."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a machine is made, as far as its guest sees it: a snapshot fits no machine of another shape.

    `memory` and `disk` are in bytes, `shares` is the number of folders.
    """

    acceleration: Acceleration
    cpus: int
    memory: int
    disk: int
    shares: int
    board: Board = Board.MICROVM


@dataclass(frozen=True, slots=True)
class HostClock:
    """What an emulated machine counts time by: the host processor's counter. `is_steady`: its speed never changes."""

    khz: int
    is_steady: bool


@dataclass(frozen=True, slots=True)
class Descriptors:
    """What a machine is made of, as descriptors, in the order in which QEMU is started with them; the last two are
    there for one that does not just boot."""

    kernel: int
    initramfs: int
    root: int
    layer: int
    tap: int
    port: int
    console: int
    memory: int | None = None
    control: int | None = None

    def all(self) -> tuple[int, ...]:
        """Return them in order."""
        parts = (self.kernel, self.initramfs, self.root, self.layer, self.tap, self.port, self.console)
        return parts if self.memory is None or self.control is None else (*parts, self.memory, self.control)


def whole_cpus(cpus: float) -> int:
    """Return how many processors a machine has that may use as much as that."""
    return max(1, math.ceil(cpus))


def command_line(
    shape: Shape,
    mounts: Sequence[GuestMount],
    clock: HostClock,
    *,
    has_tap: bool = True,
    beginning: Beginning = Beginning.BOOT,
) -> tuple[str, ...]:
    """Return the program and its arguments, by rules 1 to 4. Without a tap device the cable is a datagram socket with a
    frame in each.

    The descriptors are those of `Descriptors`, numbered from `FIRST_DESCRIPTOR`.
    """
    kernel, initramfs, root, layer, tap, port, console = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + 7)
    line = [PROGRAM, "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"]
    line += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    line += [*_machine(shape, beginning), *_processor(shape.acceleration)]
    line += ["-smp", str(shape.cpus), "-m", f"{shape.memory // MEMORY_STEP}M"]
    line += ["-kernel", f"/proc/self/fd/{kernel}", "-initrd", f"/proc/self/fd/{initramfs}"]
    line += ["-append", kernel_words(shape.acceleration, clock)]
    board = shape.board
    line += _disk(board, root, "root", f"serial={ROOT_SERIAL}", is_read_only=True)
    line += _disk(board, layer, "layer", f"serial={LAYER_SERIAL}", is_read_only=False)
    cable = f"tap,id=net,fd={tap}" if has_tap else f"dgram,id=net,local.type=fd,local.str={tap}"
    rom = "" if board is Board.MICROVM else ",romfile="  # programs for starting from a network, which nothing does
    line += ["-netdev", cable, "-device", f"virtio-net-{board},netdev=net,mac={CARD_ADDRESS}{rom}"]
    line += ["-device", f"virtio-serial-{board},max_ports=2", "-chardev", f"socket,id=port,fd={port}"]
    line += ["-device", f"virtserialport,chardev=port,name={PORT_NAME}"]
    line += ["-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console"]
    line += ["-device", f"virtio-balloon-{board},free-page-reporting=on"]
    for mount in mounts:
        line += _share(board, mount)
    return tuple(line)


def kernel_words(acceleration: Acceleration, clock: HostClock) -> str:
    """Return the kernel's command line. Documentation/admin-guide/kernel-parameters.txt of the kernel.

    An emulated machine has no clock to measure its own by, and a kernel that is not told hangs in `calibrate_delay`. It
    keeps time by a counter whose speed is known for good; else it counts its own ticks.
    """
    words = "console=ttyS0 quiet panic=-1 reboot=t 8250.nr_uarts=1 i8042.noprobe audit=0 apparmor=0 cryptomgr.notests"
    if acceleration is Acceleration.TCG:
        counter = "reliable" if clock.is_steady else "unstable"
        words += f" tsc_early_khz={clock.khz} tsc={counter} mitigations=off nokaslr no_timer_check random.trust_cpu=on"
    return words


def host_clock(cpuinfo: Path = Path("/proc/cpuinfo")) -> HostClock:
    """Return the clock of the host's first processor. Where the host is a machine itself, its kernel names the speed of
    the counter; elsewhere it names the processor's at the moment, which changes."""
    khz, is_steady = _SECONDS_OF_CALIBRATION_HZ, False
    for line in cpuinfo.read_text("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "cpu MHz":
            khz = int(float(value) * 1000)
        elif name.strip() == "flags":
            is_steady = {"hypervisor", "constant_tsc"} <= set(value.split())
            break
    return HostClock(khz, is_steady=is_steady)


def _machine(shape: Shape, beginning: Beginning) -> list[str]:
    """Return what the machine is, and what its memory is when that is not QEMU's own (rule 4)."""
    kind = (
        "microvm,rtc=on,graphics=off"
        if shape.board is Board.MICROVM
        else "q35,graphics=off,vmport=off,i8042=off,sata=off,smbus=off,hpet=off"
    )
    if beginning is Beginning.BOOT:
        return ["-machine", kind]
    memory, control = FIRST_DESCRIPTOR + 7, FIRST_DESCRIPTOR + 8
    words = ["-object", f"memory-backend-file,id=ram,size={shape.memory},mem-path=/proc/self/fd/{memory},share=on"]
    words += ["-machine", f"{kind},memory-backend=ram"]
    words += ["-chardev", f"socket,id=control,fd={control}", "-mon", "chardev=control,mode=control"]
    return [*words, "-incoming", "defer"] if beginning is Beginning.RESTORED else words


def _processor(acceleration: Acceleration) -> list[str]:
    if acceleration is Acceleration.KVM:
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", f"tcg,thread=multi,tb-size={CODE_CACHE_MIB}", "-cpu", "max"]


def _disk(board: Board, descriptor: int, name: str, serial: str, *, is_read_only: bool) -> list[str]:
    """Give the machine a disk. When the host's own is full the guest is told so: by itself, QEMU would hold it still
    until somebody looks."""
    number = descriptor
    file = f"driver=file,node-name={name}-file,filename=/dev/fdset/{number},locking=off"
    raw = f"driver=raw,node-name={name},file={name}-file"
    if is_read_only:
        file, raw = f"{file},read-only=on", f"{raw},read-only=on"
    else:
        file, raw = f"{file},discard=unmap", f"{raw},discard=unmap"
    return [
        "-add-fd", f"fd={descriptor},set={number}",
        "-blockdev", file,
        "-blockdev", raw,
        "-device", f"virtio-blk-{board},drive={name},{serial},werror=report,rerror=report",
    ]  # fmt: skip


def _share(board: Board, mount: GuestMount) -> list[str]:
    """Serve a folder as QEMU's own user: what the guest makes belongs to that user, whoever the guest says it is.

    A comma ends an option's value; two are one comma of the value.
    """
    path = mount.path.replace(",", ",,")
    share = f"local,id={mount.tag},path={path},security_model=none,multidevs=remap"
    if mount.is_read_only:
        share += ",readonly=on"
    return ["-fsdev", share, "-device", f"virtio-9p-{board},fsdev={mount.tag},mount_tag={mount.tag}"]
