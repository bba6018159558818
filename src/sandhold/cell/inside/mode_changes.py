"""Who may set a set-user-id or set-group-id bit: everybody on the cell's own files, nobody in a workspace.

A set-id file in a workspace would be one of the host's. Packages need the bit on their own. The filter asks here, and
the change is made here, on the very file that was looked at: the caller's memory may change under any check.

Rules:

1. The path is read from the caller once, resolved as the caller (its folder, its user, its groups), with no link of
   `/proc` that would mean another process; the descriptor found is the one that is judged and changed.
2. A file on one of the cell's own mounts is changed with exactly the caller's rights. Every other is refused (EPERM).
3. A question that cannot be understood, or is one too many at a time, is refused.
"""

# ruff: noqa: PTH101  # system calls on a tree where pathlib has no words for links and descriptors

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from sandhold.linux.mounts import mount_id
from sandhold.linux.notifications import Question, is_still_asked, receive, reply
from sandhold.linux.process import fork
from sandhold.linux.syscalls import AT_FDCWD, RESOLVE_NO_MAGICLINKS, openat2, setfsgid, setfsuid

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

AT_ONCE_MAX: Final = 32  # answers under way; a package sets a bit at a time
PATH_BYTES_MAX: Final = 4096  # PATH_MAX, with the zero byte
_STATUS_BYTES_MAX: Final = 16384
_MODE_BITS: Final = 0o7777
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_EMPTY_PATH: Final = 0x1000


class ModeChanges:
    """Answers the filter's questions, each in a short-lived child that takes on the caller's rights."""

    def __init__(self, own_mounts: AbstractSet[int]) -> None:
        self._own_mounts = own_mounts
        self._under_way: dict[int, tuple[int, Question]] = {}

    def ask(self, listener: int) -> None:
        """Take one question and start working on its answer."""
        question = receive(listener)
        if question is None:
            return
        if len(self._under_way) >= AT_ONCE_MAX:
            reply(listener, question, errno.EPERM)
            return
        try:
            pid, kept = _fork_with(listener)
        except OSError:  # the cell has used up its processes or descriptors; process 1 goes on
            reply(listener, question, errno.EAGAIN)
            return
        if pid == 0:
            _answer_and_exit(kept, question, self._own_mounts)
        self._under_way[pid] = (kept, question)

    def answer(self, pid: int, status: int) -> bool:
        """Pass on what a child found, its exit status being the error number; False when it is no child of ours."""
        found = self._under_way.pop(pid, None)
        if found is None:
            return False
        listener, question = found
        reply(listener, question, status if 0 <= status < 256 else errno.EPERM)
        os.close(listener)
        return True


def _fork_with(listener: int) -> tuple[int, int]:
    """Fork, and return the child's pid with a copy of the listener that outlives the poll's own."""
    kept = os.dup(listener)
    try:
        return fork(), kept
    except OSError:
        os.close(kept)
        raise


def _answer_and_exit(listener: int, question: Question, own_mounts: AbstractSet[int]) -> None:
    status = errno.EPERM
    try:
        status = _change(listener, question, own_mounts)
    except OSError as error:
        status = error.errno if error.errno and error.errno < 256 else errno.EPERM
    except (ValueError, IndexError):
        status = errno.EPERM
    finally:
        os._exit(status)


def _change(listener: int, question: Question, own_mounts: AbstractSet[int]) -> int:
    """Do what was asked by rules 1 and 2 and return 0 or an error number. Runs in a child of its own."""
    folder_number, path_at, mode, flags = _arguments(question)
    pid = question.pid
    path = _path(pid, path_at) if path_at is not None else b""
    folder = _open_of(pid, folder_number)
    uid, gid, groups = _rights(pid)
    if not is_still_asked(listener, question):
        return errno.EPERM
    os.setgroups(groups)
    setfsgid(gid)
    setfsuid(uid)
    if path:
        follow = os.O_NOFOLLOW if flags & _AT_SYMLINK_NOFOLLOW else 0
        file = openat2(folder, path, os.O_PATH | follow, RESOLVE_NO_MAGICLINKS)
    elif path_at is None or flags & _AT_EMPTY_PATH:
        file = folder
    else:
        return errno.ENOENT
    if mount_id(file) not in own_mounts:
        return errno.EPERM
    os.chmod(f"/proc/self/fd/{file}", mode & _MODE_BITS)
    return 0


def _arguments(question: Question) -> tuple[int, int | None, int, int]:
    """Return the folder's descriptor, where the path is (None: the descriptor itself is meant), the mode, the flags."""
    first, second, third, fourth = question.arguments[:4]
    match question.call:
        case "chmod":
            return AT_FDCWD, first, second, 0
        case "fchmod":
            return _signed(first), None, second, 0
        case "fchmodat":
            return _signed(first), second, third, 0
        case "fchmodat2":
            return _signed(first), second, third, fourth
    raise ValueError("the filter asks about nothing else")


def _signed(word: int) -> int:
    low = word & 0xFFFFFFFF
    return low - (1 << 32) if low & 0x80000000 else low


def _path(pid: int, address: int) -> bytes:
    """Read a path from the caller's memory, up to its zero byte and never past the page that holds it."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        read = b""
        while b"\0" not in read and len(read) < PATH_BYTES_MAX:
            here = address + len(read)
            read += os.pread(memory, min(4096 - here % 4096, PATH_BYTES_MAX - len(read)), here)
    finally:
        os.close(memory)
    path, zero, _ = read.partition(b"\0")
    if not zero:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return path


def _open_of(pid: int, number: int) -> int:
    if number == AT_FDCWD:
        return os.open(f"/proc/{pid}/cwd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if number < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    with contextlib.suppress(FileNotFoundError):
        return os.open(f"/proc/{pid}/fd/{number}", os.O_PATH | os.O_CLOEXEC)
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _rights(pid: int) -> tuple[int, int, list[int]]:
    """Return the user, group and groups that the caller's access to files is judged by. proc_pid_status(5)."""
    fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(fd, _STATUS_BYTES_MAX).split(b"\n")
    finally:
        os.close(fd)
    fields = {line.partition(b":")[0]: line.partition(b":")[2].split() for line in lines}
    return int(fields[b"Uid"][3]), int(fields[b"Gid"][3]), [int(group) for group in fields[b"Groups"]]
