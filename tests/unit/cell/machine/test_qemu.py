"""QEMU's command line: what is in it, and what can never be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sandhold.cell.machine.plan import GuestMount
from sandhold.cell.machine.qemu import (
    Acceleration,
    Beginning,
    Board,
    HostClock,
    Shape,
    command_line,
    host_clock,
    kernel_words,
    whole_cpus,
)

if TYPE_CHECKING:
    from pathlib import Path

CLOCK = HostClock(2445009, is_steady=True)


def shape(acceleration: Acceleration = Acceleration.TCG, *, cpus: float = 1) -> Shape:
    """Return a small machine's shape."""
    return Shape(acceleration, whole_cpus(cpus), memory=512 << 20, disk=1 << 30, shares=0)


def line(*mounts: GuestMount, acceleration: Acceleration = Acceleration.TCG, cpus: float = 1) -> tuple[str, ...]:
    """Return the command line of a small machine."""
    return command_line(shape(acceleration, cpus=cpus), mounts, CLOCK)


def test_nothing_is_there_by_default() -> None:
    """No default device, configuration file, monitor or display, and QEMU's own filter refuses new programs."""
    words = line()
    assert {"-nodefaults", "-no-user-config"} <= set(words)
    assert words[words.index("-monitor") + 1] == "none"
    assert words[words.index("-display") + 1] == "none"
    assert {"spawn=deny", "elevateprivileges=deny"} <= set(words[words.index("-sandbox") + 1].split(","))


def test_no_path_of_the_host_is_named_but_the_folders() -> None:
    """Everything but the program and the shared folders is a descriptor."""
    folder = "/home/someone/project"
    paths = {
        part.partition("=")[2]
        for word in line(GuestMount(folder, "ws0", is_read_only=False))[1:]
        for part in word.split(",")
        if part.partition("=")[2].startswith("/")
    }
    assert paths <= {folder, *(f"/dev/fdset/{number}" for number in range(3, 10))}


def test_a_comma_in_a_folders_name_starts_no_option() -> None:
    """A folder cannot set options of the share by what it is called."""
    (share,) = [word for word in line(GuestMount("/a,readonly=off,b", "ws0", is_read_only=True)) if "local" in word]
    assert share.replace(",,", "") == (
        "local,id=ws0,path=/areadonly=offb,security_model=none,multidevs=remap,readonly=on"
    )


def test_a_part_of_a_processor_is_one() -> None:
    """The machine has as many processors as it takes to use what it may; control groups hold it to the rest."""
    assert [line(cpus=cpus)[line().index("-smp") + 1] for cpus in (0.1, 1, 1.5, 2)] == ["1", "1", "2", "2"]


def test_an_emulated_kernel_is_told_its_clock() -> None:
    """Without that the kernel hangs where it measures; with the processor's help it has a clock of its own."""
    assert "tsc_early_khz=2445009 tsc=reliable" in kernel_words(Acceleration.TCG, HostClock(2445009, is_steady=True))
    assert "tsc_early_khz=2445009 tsc=unstable" in kernel_words(Acceleration.TCG, HostClock(2445009, is_steady=False))
    assert "tsc" not in kernel_words(Acceleration.KVM, HostClock(2445009, is_steady=True))


CLOCKS: dict[str, tuple[str, HostClock]] = {
    "a machine of another host's": ("cpu MHz : 2445.009\nflags : fpu constant_tsc hypervisor\ncpu MHz : 1\n", CLOCK),
    "a host whose processor changes its speed": (
        "cpu MHz : 800.1\nflags : constant_tsc\n",
        HostClock(800100, is_steady=False),
    ),
    "a counter that changes its speed": ("cpu MHz : 800.1\nflags : hypervisor\n", HostClock(800100, is_steady=False)),
    "a host that says nothing": ("processor : 0\n", HostClock(2_000_000, is_steady=False)),
}


@pytest.mark.parametrize(("cpuinfo", "clock"), CLOCKS.values(), ids=CLOCKS)
def test_the_hosts_clock_is_read(tmp_path: Path, cpuinfo: str, clock: HostClock) -> None:
    """The first processor's speed counts, it is steady where nothing can change it, and there is always one."""
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert host_clock(tmp_path / "cpuinfo") == clock


def test_without_a_tap_device_the_card_has_a_socket() -> None:
    """Where no tap device may be made, frames go through a datagram socket under the same number."""
    words = command_line(shape(), (), CLOCK, has_tap=False)
    assert words[words.index("-netdev") + 1] == "dgram,id=net,local.type=fd,local.str=7"
    assert line()[line().index("-netdev") + 1] == "tap,id=net,fd=7"


def test_the_other_machine_has_the_same_parts() -> None:
    """The computer that every QEMU can be gets the same devices on its own bus, and none that it has unasked."""
    mount = GuestMount("/a", "ws0", is_read_only=False)
    least, other = (
        command_line(replace(shape(), board=board), (mount,), CLOCK) for board in (Board.MICROVM, Board.Q35)
    )
    assert [word.replace("-device", "-pci") for word in least if word.startswith("virtio-")] == [
        word.replace(",romfile=", "") for word in other if word.startswith("virtio-")
    ]
    machine = other[other.index("-machine") + 1].split(",")
    assert {"q35", "sata=off", "i8042=off", "smbus=off"} <= set(machine)


def test_only_a_machine_that_is_kept_or_restored_has_a_monitor() -> None:
    """A machine that boots is given no socket for one, and nobody's memory but its own."""
    booted, kept, restored = (command_line(shape(), (), CLOCK, beginning=beginning) for beginning in Beginning)
    assert not {"-mon", "-object", "-incoming"} & set(booted)
    assert "-incoming" not in kept
    assert restored[restored.index("-incoming") + 1] == "defer"
    assert kept == tuple(word for word in restored if word not in ("-incoming", "defer"))
