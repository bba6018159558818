"""System calls that Python 3.11 does not offer, named after themselves; a failure is an `OSError` naming the call.

Numbers come from the kernel's `arch/*/tables` and are the same on every architecture from `pidfd_send_signal` (424) on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

AT_FDCWD: Final = -100
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

_OPENAT2: Final = 437
_PIVOT_ROOT: Final = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38

# The kernel refuses all of these with EPERM, and each has one usual cause.
_EPERM_CAUSES: Final = {
    "unshare": "this host may forbid user namespaces to ordinary users; see `sbx doctor`",
    "setns": "the namespace belongs to another user, or the process has more than one thread",
    "mount_setattr": "the file system does not allow idmapped mounts, or a locked mount lies below",
    "open_tree": "cloning a mount needs CAP_SYS_ADMIN over the mount namespace",
    "fsmount": "the kernel mounts proc in a user namespace only while an unmasked /proc is visible",
}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Machine:
    """The processor's name as the kernel spells it: `x86_64` or `aarch64`."""

    name: str

    @classmethod
    def here(cls) -> Machine:
        """Return this machine.

        Raises:
            OSError: ENOSYS on a processor whose system calls have not been read.
        """
        name = os.uname().machine
        if name not in _PIVOT_ROOT:
            raise OSError(errno.ENOSYS, f"no table of system calls for `{name}`; x86_64 and aarch64 are known")
        return cls(name)


def checked(result: int, call: str, what: str = "") -> int:
    """Return a system call's result, or raise what `errno` says, naming the call and its object."""
    if result >= 0:
        return result
    number = ctypes.get_errno()
    text = f"{call}: {os.strerror(number)}"
    if number == errno.EPERM and call in _EPERM_CAUSES:
        text += f" ({_EPERM_CAUSES[call]})"
    raise OSError(number, text, what or None)


def syscall(call: str, number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call by number; integers go as 64 bits. syscall(2)."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return checked(int(_libc.syscall(ctypes.c_long(number), *words)), call)


def unshare(flags: int) -> None:
    """Move this process into new namespaces. unshare(2)."""
    checked(int(_libc.unshare(ctypes.c_int(flags))), "unshare", f"{flags:#x}")


def setns(fd: int, kind: int) -> None:
    """Move this process into the namespace behind a descriptor of that kind. setns(2)."""
    checked(int(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind))), "setns", f"{kind:#x}")


def pivot_root_here() -> None:
    """Make the current folder the root and let go of the old one.

    Passing `.` twice stacks the old root on the new one, so that no folder is needed for it. pivot_root(2), NOTES.
    """
    syscall("pivot_root", _PIVOT_ROOT[Machine.here().name], b".", b".")
    umount_detach(".")
    os.chdir("/")


def umount_detach(path: str) -> None:
    """Take a mount out of the tree; it goes when its last user does. umount2(2), `MNT_DETACH`."""
    checked(int(_libc.umount2(os.fsencode(path), 2)), "umount2", path)


def openat2(folder: int, path: str | bytes, flags: int, resolve: int) -> int:
    """Open with limits on how the path is resolved; close-on-exec always. openat2(2)."""
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, resolve)
    return syscall("openat2", _OPENAT2, folder, os.fsencode(path), bytes(how), 24)


def prctl(option: int, *arguments: int) -> int:
    """Do an operation on this process. prctl(2)."""
    words = [ctypes.c_ulong(word) for word in (*arguments, 0, 0, 0, 0)[:4]]
    return checked(int(_libc.prctl(ctypes.c_int(option), *words)), "prctl", str(option))


def die_with_parent(signum: int) -> None:
    """Ask for a signal when the thread that made this process ends. PR_SET_PDEATHSIG(2const).

    The kernel forgets it at every change of credentials, so it is set after the last one, and the caller then checks
    that the parent had not gone before.
    """
    prctl(_PR_SET_PDEATHSIG, signum)


@contextlib.contextmanager
def orphans_adopted() -> Iterator[None]:
    """Meanwhile, become the parent of what a child of ours leaves when it ends. PR_SET_CHILD_SUBREAPER(2const)."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0)


def forbid_dumping() -> None:
    """Keep every other process out of this one's memory and `/proc` folder. PR_SET_DUMPABLE(2const)."""
    prctl(_PR_SET_DUMPABLE, 0)


def allow_dumping() -> None:
    """Open this process's `/proc` folder to its own user again. PR_SET_DUMPABLE(2const)."""
    prctl(_PR_SET_DUMPABLE, 1)


def rename_process(name: bytes) -> None:
    """Show every process list this name and nothing of the command line, which holds paths of the host.

    The words lie on the stack between `arg_start` and `arg_end`. proc_pid_stat(5), PR_SET_NAME(2const).
    """
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123  # process 1 can import nothing any more
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, name, min(len(name), end - start - 1))
    word = ctypes.create_string_buffer(name)
    prctl(_PR_SET_NAME, ctypes.addressof(word))


def trim_heap() -> None:
    """Give back to the kernel what a start left free in the heap; a C library without malloc_trim(3) keeps it."""
    with contextlib.suppress(AttributeError):
        _libc.malloc_trim(0)


def no_new_privileges() -> None:
    """Make set-id bits and file capabilities count for nothing from here on. PR_SET_NO_NEW_PRIVS(2const)."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def setfsuid(uid: int) -> None:
    """Use this user for access to files only; the kernel reports no failure, so the change is asked back."""
    _set_filesystem_id("setfsuid", uid)


def setfsgid(gid: int) -> None:
    """Use this group for access to files only. setfsgid(2)."""
    _set_filesystem_id("setfsgid", gid)


def _set_filesystem_id(call: str, number: int) -> None:
    function = _libc[call]
    function(ctypes.c_uint(number))
    if int(function(ctypes.c_uint(number))) != number:
        raise OSError(errno.EPERM, f"{call}: {os.strerror(errno.EPERM)}")
