"""The filter's program, run by a small interpreter of classic BPF instead of the kernel."""

from __future__ import annotations

import errno
import struct

import pytest

from sandhold.linux import seccomp
from sandhold.linux.syscall_numbers import AUDIT_ARCHITECTURES, NUMBERS
from sandhold.linux.syscalls import Machine

ALLOW, NOTIFY, KILL = 0x7FFF0000, 0x7FC00000, 0x80000000
MACHINES = ("x86_64", "aarch64")
O_CREAT, O_TMPFILE = 0o100, 0x410000


def _answer(machine: str, call: str | int, *arguments: int, architecture: int | None = None) -> int:
    """Run the filter on one call and return its verdict. bpf(4) and `struct seccomp_data`."""
    number = NUMBERS[machine][call] if isinstance(call, str) else call
    words = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=iIQ6Q", number, architecture or AUDIT_ARCHITECTURES[machine], 0, *words)
    steps: list[tuple[int, int, int, int]] = list(struct.iter_unpack("=HBBI", seccomp.program(Machine(machine))))
    accumulator, place = 0, 0
    while True:
        code, when_true, when_false, operand = steps[place]
        place += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                accumulator &= operand
            case 0x15:
                place += when_true if accumulator == operand else when_false
            case 0x35:
                place += when_true if accumulator >= operand else when_false
            case 0x45:
                place += when_true if accumulator & operand else when_false
            case 0x06:
                return operand
            case _:
                raise AssertionError(f"an instruction that the filter does not use: {code:#x}")


def _refused(number: int) -> int:
    return 0x00050000 | number


CASES = {
    "a mount is refused": ("mount", (), _refused(errno.EPERM)),
    "a BPF program is refused": ("bpf", (), _refused(errno.EPERM)),
    "clone3 does not exist": ("clone3", (), _refused(errno.ENOSYS)),
    "openat2 does not exist": ("openat2", (), _refused(errno.ENOSYS)),
    "io_uring does not exist": ("io_uring_setup", (), _refused(errno.ENOSYS)),
    "a thread is allowed": ("clone", (0x3D0F00,), ALLOW),
    "a fork is allowed": ("clone", (0x1200011,), ALLOW),
    "a clone with a user namespace is refused": ("clone", (0x10000011,), _refused(errno.EPERM)),
    "high bits hide no flag": ("clone", (0xFFFFFFFF_10000011,), _refused(errno.EPERM)),
    "sharing no folder is allowed": ("unshare", (0x200,), ALLOW),
    "a time namespace is refused": ("unshare", (0x80,), _refused(errno.EPERM)),
    "a network namespace is refused": ("unshare", (0x40000000,), _refused(errno.EPERM)),
    "a Unix socket is allowed": ("socket", (1, 1, 0), ALLOW),
    "a Unix packet socket is allowed": ("socket", (1, 5 | 0x80000, 0), ALLOW),
    "TCP over IPv4 is allowed": ("socket", (2, 1 | 0x80800, 6), ALLOW),
    "TCP over IPv6 is allowed": ("socket", (10, 1, 0), ALLOW),
    "UDP is allowed": ("socket", (2, 2, 17), ALLOW),
    "UDP without a protocol is allowed": ("socket", (10, 2, 0), ALLOW),
    "a stream of UDP is no protocol": ("socket", (2, 1, 17), _refused(errno.EPROTONOSUPPORT)),
    "a datagram of TCP is no protocol": ("socket", (2, 2, 6), _refused(errno.EPROTONOSUPPORT)),
    "multipath TCP is no protocol": ("socket", (2, 1, 262), _refused(errno.EPROTONOSUPPORT)),
    "a ping socket is no protocol": ("socket", (2, 2, 1), _refused(errno.EPROTONOSUPPORT)),
    "a raw socket is refused": ("socket", (2, 3, 255), _refused(errno.EPERM)),
    "a raw socket with flags is refused": ("socket", (10, 3 | 0x80800, 58), _refused(errno.EPERM)),
    "an old packet socket is refused": ("socket", (2, 10, 0), _refused(errno.EPERM)),
    "routing messages are allowed": ("socket", (16, 3 | 0x80000, 0), ALLOW),
    "netfilter messages are no protocol": ("socket", (16, 3, 12), _refused(errno.EPROTONOSUPPORT)),
    "audit messages are no protocol": ("socket", (16, 3, 9), _refused(errno.EPROTONOSUPPORT)),
    "packets are no family": ("socket", (17, 3, 0), _refused(errno.EAFNOSUPPORT)),
    "the hypervisor is no family": ("socket", (40, 1, 0), _refused(errno.EAFNOSUPPORT)),
    "a Unix pair is allowed": ("socketpair", (1, 1, 0), ALLOW),
    "a pair of another family is none": ("socketpair", (30, 1, 0), _refused(errno.EAFNOSUPPORT)),
    "typing into a terminal is refused": ("ioctl", (0, 0x5412), _refused(errno.EPERM)),
    "pasting into a console is refused": ("ioctl", (0, 0x541C), _refused(errno.EPERM)),
    "high bits hide no request": ("ioctl", (0, 0xFFFFFFFF_00005412), _refused(errno.EPERM)),
    "asking a terminal's size is allowed": ("ioctl", (0, 0x5413), ALLOW),
    "asking the personality is allowed": ("personality", (0xFFFFFFFF,), ALLOW),
    "turning randomness off is allowed": ("personality", (0x40000,), ALLOW),
    "mapping page zero is refused": ("personality", (0x100000,), _refused(errno.EPERM)),
    "making a file is allowed": ("openat", (0, 0, O_CREAT | 1, 0o644), ALLOW),
    "making a set-user-id file is refused": ("openat", (0, 0, O_CREAT | 1, 0o4755), _refused(errno.EPERM)),
    "a nameless set-id file is refused": ("openat", (0, 0, O_TMPFILE | 1, 0o2755), _refused(errno.EPERM)),
    "a mode without making counts for nothing": ("openat", (0, 0, 0, 0o6755), ALLOW),
    "a set-id node is refused": ("mknodat", (0, 0, 0o106755), _refused(errno.EPERM)),
    "a plain change of mode is allowed": ("fchmodat", (0, 0, 0o1777), ALLOW),
    "setting a set-user-id bit is asked": ("fchmodat", (0, 0, 0o4755), NOTIFY),
    "setting a set-group-id bit is asked": ("fchmod", (3, 0o2755), NOTIFY),
    "the newest call is asked too": ("fchmodat2", (0, 0, 0o4755, 0), NOTIFY),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("call", "arguments", "verdict"), CASES.values(), ids=CASES.keys())
def test_verdicts(machine: str, call: str, arguments: tuple[int, ...], verdict: int) -> None:
    """Each call gets the verdict that the filter's rules give it, on both processors."""
    assert _answer(machine, call, *arguments) == verdict


OLD_CALLS = {
    "chmod": ("chmod", (0, 0o4755), NOTIFY),
    "creat": ("creat", (0, 0o4755), _refused(errno.EPERM)),
    "open": ("open", (0, O_CREAT, 0o2755), _refused(errno.EPERM)),
    "open of a file that is there": ("open", (0, 0, 0), ALLOW),
    "mknod": ("mknod", (0, 0o104755), _refused(errno.EPERM)),
}


@pytest.mark.parametrize(("call", "arguments", "verdict"), OLD_CALLS.values(), ids=OLD_CALLS.keys())
def test_the_older_calls_are_no_way_round(call: str, arguments: tuple[int, ...], verdict: int) -> None:
    """What only x86_64 still has gets the same verdicts."""
    assert _answer("x86_64", call, *arguments) == verdict


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architecture_ends_the_process(machine: str) -> None:
    """A call by the numbers of another processor is never looked up; 0x40000003 is i386."""
    assert _answer(machine, "socket", 1, 1, 0, architecture=0x40000003) == KILL


def test_x32_does_not_exist() -> None:
    """A call number with the x32 bit is no call."""
    assert _answer("x86_64", 0x40000000 | 41, 2, 3, 0) == _refused(errno.ENOSYS)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_program_fits_the_kernel(machine: str) -> None:
    """A filter has at most 4096 instructions and ends in a return."""
    records = seccomp.program(Machine(machine))
    assert len(records) // 8 <= 4096
    assert struct.unpack("=HBBI", records[-8:])[0] == 0x06


@pytest.mark.parametrize("machine", list(NUMBERS))
@pytest.mark.parametrize("number", [468, 470, 511, 1 << 20])
def test_calls_that_nobody_has_read(machine: str, number: int) -> None:
    """A call newer than every call that was read does not exist, whatever it will do."""
    assert _answer(machine, number) == _refused(errno.ENOSYS)


@pytest.mark.parametrize("machine", list(NUMBERS))
def test_no_line_discipline(machine: str) -> None:
    """A terminal keeps its line discipline: another would load a module of the kernel (`TIOCSETD`)."""
    assert _answer(machine, "ioctl", 0, 0x5423) == _refused(errno.EPERM)


@pytest.mark.parametrize("machine", list(NUMBERS))
def test_the_limits_of_process_1(machine: str) -> None:
    """Root inside has the ids of process 1 and may not change its limits; others it may."""
    assert _answer(machine, "prlimit64", 1) == _refused(errno.EPERM)
    assert _answer(machine, "prlimit64", 0) == _answer(machine, "prlimit64", 7) == 0x7FFF0000
