"""User namespaces and their maps. user_namespaces(7), newuidmap(1), subuid(5)."""

from __future__ import annotations

import contextlib
import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandhold.linux.process import find_program, fork, run_checked
from sandhold.linux.syscalls import CLONE_NEWUSER, unshare

if TYPE_CHECKING:
    from collections.abc import Sequence

SUBORDINATE_LINES_MAX: Final = 10_000  # a host with more accounts than this is not somebody's own machine
_IDS: Final = 65536  # what programs and packages expect to exist


@dataclass(frozen=True, slots=True)
class IdRange:
    """One line of a map: `count` ids from `inside` are the ids from `outside`."""

    inside: int
    outside: int
    count: int


IdMap = tuple[IdRange, ...]


@dataclass(frozen=True, slots=True)
class Maps:
    """The map of users and the map of groups."""

    users: IdMap
    groups: IdMap


def subordinate_range(file: str, uid: int) -> tuple[int, int] | None:
    """Return the first and the number of ids that a file (`/etc/subuid`) gives to a user, the largest range of them."""
    names = {str(uid)}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    best: tuple[int, int] | None = None
    try:
        with open(file, encoding="utf-8") as lines:  # noqa: PTH123  # this module also starts before pathlib is wanted
            for line, _ in zip(lines, range(SUBORDINATE_LINES_MAX), strict=False):
                fields = line.strip().split(":")
                if len(fields) != 3 or fields[0] not in names or not (fields[1].isdigit() and fields[2].isdigit()):
                    continue
                found = int(fields[1]), int(fields[2])
                if best is None or found[1] > best[1]:
                    best = found
    except OSError:
        return None
    return best


def map_around(agent: int, own: int, first: int, count: int) -> IdMap:
    """Return a map that gives the id `agent` inside to `own`, and the others their places in a subordinate range."""
    last = min(count, _IDS)
    ranges = [IdRange(0, first, min(agent, last)), IdRange(agent, own, 1)]
    if last > agent + 1:
        ranges.append(IdRange(agent + 1, first + agent + 1, last - agent - 1))
    return tuple(ranges)


def write_maps_with_helpers(pid: int, maps: Maps) -> None:
    """Give a process's new user namespace its maps with the host's set-user-id helpers. newuidmap(1).

    Raises:
        OSError: when the host's files do not grant those ids.
    """
    run_checked(["newuidmap", str(pid), *_words(maps.users)])
    run_checked(["newgidmap", str(pid), *_words(maps.groups)])


def write_single_id_map(pid: int, inside: int, uid: int, gid: int) -> None:
    """Give a process's new user namespace one user and one group, which needs no helper.

    Groups may be mapped by their owner only once `setgroups` is denied: a group could otherwise be dropped to pass a
    file that excludes it.
    """
    _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/uid_map", f"{inside} {uid} 1")
    _write(f"/proc/{pid}/gid_map", f"{inside} {gid} 1")


def new_user_namespace(maps: Maps, *, may_set_groups: bool = True) -> int:
    """Return a descriptor of a new user namespace below this process's, with these maps.

    Needs CAP_SETUID and CAP_SETGID over this process's user namespace. The ids outside are those of that namespace.
    """
    ready_read, ready_write = os.pipe()
    done_read, done_write = os.pipe()
    pid = fork()
    if pid == 0:
        _hold_user_namespace(ready_write, done_read, done_write)
    try:
        os.close(done_read)
        os.close(ready_write)
        if os.read(ready_read, 1) != b"r":
            raise PermissionError("unshare: no user namespace could be made")
        if not may_set_groups:
            _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/uid_map", _lines(maps.users))
        _write(f"/proc/{pid}/gid_map", _lines(maps.groups))
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(done_write)
        os.close(ready_read)
        os.waitpid(pid, 0)


def helpers_missing() -> str | None:
    """Return the name of a set-user-id helper that is not installed, or None."""
    for name in ("newuidmap", "newgidmap"):
        if find_program(name) is None:
            return name
    return None


def _hold_user_namespace(ready: int, done: int, done_write: int) -> None:
    """Keep a new user namespace alive until the parent has opened it. Runs in the child and never returns."""
    try:
        os.close(done_write)
        unshare(CLONE_NEWUSER)
        os.write(ready, b"r")
        os.read(done, 1)
    finally:
        os._exit(0)


def _words(ranges: Sequence[IdRange]) -> list[str]:
    return [str(number) for line in ranges for number in (line.inside, line.outside, line.count)]


def _lines(ranges: Sequence[IdRange]) -> str:
    return "\n".join(f"{line.inside} {line.outside} {line.count}" for line in ranges)


def _write(path: str, text: str) -> None:
    """Write in one call: the kernel takes a map once and whole."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)
