"""The filter every command inside runs under: what it says, and how it is loaded. seccomp(2).

Rules, in the order the program asks them:

1. A call made for another processor kills the process: its numbers would mean something else. The x32 calls of x86_64
   do not exist (ENOSYS).
2. Calls whose arguments lie in memory where no filter can read them (`clone3`, `openat2`), and `io_uring`, which opens
   files and sockets without making the calls, do not exist: programs fall back to the calls that can be read.
3. New namespaces, mounts, limits of process 1, other processes' descriptors, the kernel's keys, modules, clocks and
   programs are refused.
4. Sockets are Unix, TCP, UDP and the kernel's routing messages. There is no raw socket and no other family: AF_VSOCK
   and its like do not end at the network namespace.
5. No terminal can be made to read what a program wrote to it (`TIOCSTI`, `TIOCLINUX`), nor be given another line
   discipline, which would load a module of the kernel (`TIOCSETD`).
6. No file is created with a set-user-id or set-group-id bit; a change of mode that sets one is asked of process 1.
7. A call newer than the newest that has been read does not exist (ENOSYS): nobody knows what it opens.
8. Everything else is allowed.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import Final

from sandhold.linux.syscall_numbers import AUDIT_ARCHITECTURES, NUMBERS
from sandhold.linux.syscalls import Machine, syscall

_SET_MODE_FILTER: Final = 1
_NEW_LISTENER: Final = 8

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06

_ALLOW: Final = 0x7FFF0000
_NOTIFY: Final = 0x7FC00000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000

_NUMBER_AT: Final = 0  # offsets in struct seccomp_data
_ARCHITECTURE_AT: Final = 4
_ARGUMENTS_AT: Final = 16
_X32_BIT: Final = 0x40000000

_CLONE_NEW: Final = 0x7E020000  # every CLONE_NEW* that clone(2) takes
_CLONE_NEWTIME: Final = 0x80  # means a namespace to unshare(2) only; a signal to clone(2)
_SETID: Final = 0o6000
_CREATES: Final = 0o100 | 0x400000  # O_CREAT, and the bit that O_TMPFILE adds
_TYPE_MASK: Final = 0xF  # the rest of a socket's type is SOCK_CLOEXEC and SOCK_NONBLOCK
_TERMINAL_INPUT: Final = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD
_NEWEST_READ: Final = 467  # open_tree_attr of Linux 6.15; calls are numbered alike from 424 on
_UNIX, _IPV4, _IPV6, _NETLINK = 1, 2, 10, 16
# PER_LINUX, PER_LINUX32, UNAME26, ADDR_NO_RANDOMIZE (debuggers), and the question what it is.
_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)

_ABSENT: Final = ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3", "openat2")
# fmt: off
_REFUSED: Final = (
    "setns", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "open_tree_attr", "bpf", "perf_event_open", "add_key", "request_key", "keyctl", "userfaultfd",
    "pidfd_getfd", "kcmp", "name_to_handle_at", "open_by_handle_at", "kexec_load", "kexec_file_load", "init_module",
    "finit_module", "delete_module", "create_module", "query_module", "get_kernel_syms", "swapon", "swapoff",
    "reboot", "quotactl", "quotactl_fd", "acct", "settimeofday", "clock_settime", "adjtimex", "clock_adjtime",
    "sethostname", "setdomainname", "syslog", "vhangup", "lookup_dcookie", "iopl", "ioperm", "nfsservctl", "uselib",
    "ustat", "sysfs", "_sysctl", "vserver", "fanotify_init", "move_pages", "migrate_pages",
)
# fmt: on

_Step = tuple[int, int, int, int]


def program(machine: Machine) -> bytes:
    """Return the filter for a processor, as `struct sock_filter` records."""
    numbers = NUMBERS[machine.name]
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, AUDIT_ARCHITECTURES[machine.name]),
        _answer(_KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine.name == "x86_64":
        steps += [(_AT_LEAST, 0, 1, _X32_BIT), _refuse(errno.ENOSYS)]
    steps += [(_AT_LEAST, 0, 1, _NEWEST_READ + 1), _refuse(errno.ENOSYS)]
    bodies: dict[str, list[_Step]] = {name: [_refuse(errno.ENOSYS)] for name in _ABSENT}
    bodies |= {name: [_refuse(errno.EPERM)] for name in _REFUSED}
    bodies |= _by_arguments()
    for name, body in bodies.items():
        if name in numbers:
            steps += [(_EQUAL, 0, len(body), numbers[name]), *body]
    steps.append(_answer(_ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def load(records: bytes) -> int:
    """Put this process and all it starts under a filter; return the descriptor that answers rule 6.

    Needs CAP_SYS_ADMIN over the process's user namespace, or `no_new_privs`.
    """
    code = ctypes.create_string_buffer(records, len(records))
    fprog = struct.pack("@HxxxxxxQ", len(records) // 8, ctypes.addressof(code))
    return syscall("seccomp", NUMBERS[Machine.here().name]["seccomp"], _SET_MODE_FILTER, _NEW_LISTENER, fprog)


def _by_arguments() -> dict[str, list[_Step]]:
    return {
        "clone": _unless_bits(0, _CLONE_NEW),
        "unshare": _unless_bits(0, _CLONE_NEW | _CLONE_NEWTIME),
        "personality": _only(0, _PERSONALITIES, errno.EPERM),
        "prlimit64": _never(0, (1,)),
        "socket": _socket(),
        "socketpair": _only(0, (_UNIX,), errno.EAFNOSUPPORT),
        "ioctl": _never(1, _TERMINAL_INPUT),
        "creat": _unless_bits(1, _SETID),
        "mknod": _unless_bits(1, _SETID),
        "mknodat": _unless_bits(2, _SETID),
        "open": _creation(1, 2),
        "openat": _creation(2, 3),
        "chmod": _ask_when_setid(1),
        "fchmod": _ask_when_setid(1),
        "fchmodat": _ask_when_setid(2),
        "fchmodat2": _ask_when_setid(2),
    }


def _socket() -> list[_Step]:
    """Rule 4. Jumps are counted from the step after; the labels in the margin are where they land."""
    return [
        _argument(0),
        (_EQUAL, 6, 0, _IPV4),  # -> internet
        (_EQUAL, 5, 0, _IPV6),  # -> internet
        (_EQUAL, 2, 0, _UNIX),  # -> allow
        (_EQUAL, 2, 0, _NETLINK),  # -> netlink
        _refuse(errno.EAFNOSUPPORT),
        _answer(_ALLOW),  # allow
        (_EQUAL, 9, 9, _NETLINK),  # netlink -> its protocol
        _argument(1),  # internet
        (_AND, 0, 0, _TYPE_MASK),
        (_EQUAL, 2, 0, 1),  # SOCK_STREAM -> its protocol
        (_EQUAL, 3, 0, 2),  # SOCK_DGRAM -> its protocol
        _refuse(errno.EPERM),
        _argument(2),
        (_EQUAL, 4, 5, 6),  # a stream of IPPROTO_TCP -> allow, else is it 0
        _argument(2),
        (_EQUAL, 2, 3, 17),  # datagrams of IPPROTO_UDP -> allow, else is it 0
        _argument(2),
        (_EQUAL, 0, 3, 0),  # NETLINK_ROUTE is 0
        _answer(_ALLOW),
        (_EQUAL, 0, 1, 0),  # 0 is the type's own protocol
        _answer(_ALLOW),
        _refuse(errno.EPROTONOSUPPORT),
    ]


def _creation(flags: int, mode: int) -> list[_Step]:
    return [
        _argument(flags),
        (_ANY_BIT, 0, 3, _CREATES),
        _argument(mode),
        (_ANY_BIT, 0, 1, _SETID),
        _refuse(errno.EPERM),
        _answer(_ALLOW),
    ]


def _ask_when_setid(mode: int) -> list[_Step]:
    return [_argument(mode), (_ANY_BIT, 0, 1, _SETID), _answer(_NOTIFY), _answer(_ALLOW)]


def _unless_bits(argument: int, bits: int) -> list[_Step]:
    return [_argument(argument), (_ANY_BIT, 0, 1, bits), _refuse(errno.EPERM), _answer(_ALLOW)]


def _never(argument: int, values: tuple[int, ...]) -> list[_Step]:
    last = len(values) - 1
    tests: list[_Step] = [(_EQUAL, last - place + 1, 0, value) for place, value in enumerate(values)]
    return [_argument(argument), *tests, _answer(_ALLOW), _refuse(errno.EPERM)]


def _only(argument: int, values: tuple[int, ...], number: int) -> list[_Step]:
    last = len(values) - 1
    tests: list[_Step] = [(_EQUAL, last - place + 1, 0, value) for place, value in enumerate(values)]
    return [_argument(argument), *tests, _refuse(number), _answer(_ALLOW)]


def _argument(index: int) -> _Step:
    """Load the low half of an argument: both processors are little-endian, and each one tested is a 32-bit word."""
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)


def _answer(value: int) -> _Step:
    return (_RETURN, 0, 0, value)


def _refuse(number: int) -> _Step:
    return (_RETURN, 0, 0, _ERRNO | number)
