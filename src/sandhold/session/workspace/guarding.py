"""Keeps covered what a session guards in its folders, when something on the host puts another file in its place.

Rules:

1. Something that appears beside a guard makes us look whether it is still the same file: at most once in
   `LOOK_PAUSE_S`, however often it happens, because the agent can do that on purpose.
2. A guard that is another file than before is covered again at once, by a process of its own (`guards_program`), one at
   a time, which has `WORK_S_MAX`. The session waits for nothing that it does: its order is whole before it starts, and
   that it has ended is heard. What fails is tried again, `TRIES_MAX` times in a row.
3. Only what was guarded when the session started is. What a program inside makes is not taken from it while it works: a
   `git clone` writes its configuration twice, and whoever makes a repository could put hooks into it before.

Between the moment that a file is replaced and the moment that it is covered, the agent can write it. What it wrote is
reported when the session ends (`protection.py`, rule 4).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from sandhold.linux.inotify import Appearances
from sandhold.linux.process import spawn_module

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandhold.linux.process import Child
    from sandhold.model.sandbox import Mount

LOOK_PAUSE_S: Final = 0.2  # a look is a system call or two for each guard: a fraction of a millisecond
WORK_PAUSE_S: Final = 1.0  # between two of those
TRIES_MAX: Final = 3  # what is in the way for a moment, as where descriptors are short, is gone by then
WORK_S_MAX: Final = 30.0  # takes a tenth of a second, most of it an interpreter's start
ENDING_S_MAX: Final = 0.5  # between the end of its link and its own: no time, but where the processor is busy
MESSAGE_BYTES_MAX: Final = 4096
NEVER: Final = float("inf")
GUARDS_PROGRAM: Final = "sandhold.session.workspace.guards_program"


@dataclass(slots=True)
class _Work:
    """The process that covers, while there is one, our end of its link, and when its time is over."""

    child: Child
    link: socket.socket
    until: float
    is_heard: bool = False


class Guarding:
    """Watches on the folders that guards are in, and the process that covers, while there is one."""

    def __init__(self, guarded: Sequence[Mount], log: Callable[[str], None]) -> None:
        """Begin to watch, before there is a cell: what is replaced while it starts is covered too."""
        self._guards = [(str(guard.path), guard.is_read_only, guard.is_file) for guard in guarded]
        self._folders = {os.path.dirname(path) for path, _, _ in self._guards}  # noqa: PTH120  rule 1: cheap
        self._namespaces: tuple[int, ...] = ()
        self._log = log
        self._work: _Work | None = None
        self._failures = 0
        self._looked_at = 0.0
        self._due_at: float | None = None
        self._ready = select.epoll()
        self._appearances = self._open() if self._guards else None
        self._watch()
        self._seen = self._look()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_work()
        if self._appearances is not None:
            self._appearances.close()
        self._ready.close()

    def serve(self, namespaces: Sequence[int]) -> Self:
        """Cover in this cell from now on: `namespaces` are its `mounts`."""
        self._namespaces = tuple(namespaces)
        return self

    def fileno(self) -> int:
        """Return a descriptor that is readable when `act` has something to do."""
        return self._ready.fileno()

    def due(self) -> tuple[float, ...]:
        """Return the moments, of the monotonic clock, at which `act` is to be called though nothing is readable."""
        if self._work is not None:
            return (self._work.until,)
        return () if self._due_at is None else (self._due_at,)

    def act(self) -> None:
        """Have covered again what has to be, by the rules above."""
        now = time.monotonic()
        if self._work is not None:
            self._hear(self._work, now)
        is_told = self._appearances is not None and self._appearances.told()
        if is_told and self._due_at is None:
            self._due_at = max(now, self._looked_at + LOOK_PAUSE_S)
        if self._work is not None or self._due_at is None or now < self._due_at:
            return
        self._due_at, self._looked_at = None, now
        self._watch()  # before the look: what comes after it is told
        seen, before = self._look(), self._seen
        self._seen = before | seen
        if any(before.get(path) != place for path, place in seen.items()):
            self._begin(now)

    def _open(self) -> Appearances | None:
        """Without, as where this user's other programs have all there may be, a sandbox starts all the same."""
        try:
            appearances = Appearances.open()
        except OSError as error:
            self._log(f"what the host replaces in the workspace is read-only inside from the next start on: {error}")
            return None
        self._ready.register(appearances.fileno(), select.EPOLLIN)
        return appearances

    def _watch(self) -> None:
        if self._appearances is None:
            return
        for folder in self._folders:
            with contextlib.suppress(OSError):  # it is gone, or this user has too many: the end of the session reports
                self._appearances.watch(folder)

    def _look(self) -> dict[str, tuple[int, ...]]:
        """Return which file each guard is. The number of one that is gone may be another's soon: what nobody inside can
        change is also told by when it was changed."""
        found: dict[str, tuple[int, ...]] = {}
        for path, is_read_only, _ in self._guards:
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                found[path] = (status.st_dev, status.st_ino, status.st_ctime_ns if is_read_only else 0)
        return found

    def _begin(self, now: float) -> None:
        try:
            child, link = self._spawn()
        except OSError as error:
            self._fail(str(error))
            self._due_at = now + WORK_PAUSE_S
            return
        self._work = _Work(child, link, now + WORK_S_MAX)
        self._ready.register(link.fileno(), select.EPOLLIN)

    def _spawn(self) -> tuple[Child, socket.socket]:
        """Start the process with its order in memory of its own, which takes no time however long it is."""
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as undo, theirs:
            undo.callback(ours.close)
            with open(os.memfd_create("order", os.MFD_CLOEXEC), "wb+", buffering=0) as order:  # noqa: PTH123
                order.write(json.dumps({"guards": self._guards}).encode())
                order.seek(0)
                child = spawn_module(GUARDS_PROGRAM, [theirs.fileno(), order.fileno(), *self._namespaces])
            undo.pop_all()
        return child, ours

    def _hear(self, work: _Work, now: float) -> None:
        """Take what the process says; its link ends with it, and it is made to end when its time is over."""
        try:
            packet = work.link.recv(MESSAGE_BYTES_MAX, socket.MSG_DONTWAIT)
        except BlockingIOError:
            if now >= work.until:
                self._told(work, {"failed": "it took too long"})
                work.child.kill()
                work.until = NEVER  # one that hangs in the kernel ends when it can, and there is no other meanwhile
            return
        except OSError:
            packet = b""
        if packet:
            self._told(work, _read(packet))
            return
        self._told(work, {"failed": "the process for it ended"})
        self._end_work()
        self._due_at = now + WORK_PAUSE_S  # what happened meanwhile

    def _told(self, work: _Work, said: dict[str, object]) -> None:
        """Log the first that is known of what became of the work."""
        if work.is_heard:
            return
        work.is_heard = True
        if "failed" in said:
            self._fail(str(said["failed"]))
            return
        self._failures = 0
        if said.get("covered"):
            self._log(f"made {said['covered']} files and folders of the workspace read-only again that were replaced")

    def _fail(self, why: str) -> None:
        self._log(f"what was replaced in the workspace is not read-only inside: {why}")
        self._failures += 1
        if self._failures < TRIES_MAX:
            self._seen = {}  # the next look takes every guard for another one

    def _end_work(self) -> None:
        if self._work is None:
            return
        child, link = self._work.child, self._work.link
        self._work = None
        self._ready.unregister(link.fileno())
        link.close()
        child.kill()
        try:
            child.wait(ENDING_S_MAX)
        except TimeoutError:
            child.forget()  # it ends with the session at the latest


def _read(packet: bytes) -> dict[str, object]:
    try:
        said = json.loads(packet)
    except ValueError as error:
        return {"failed": str(error)}
    return said if isinstance(said, dict) else {"failed": "it said something else"}
