"""Copies of this process, made while it knows nothing yet, that become its helpers without an interpreter's start.

Rules:

1. Copies are made before this process has read anything of the user's: no setting, no key, no environment is in their
   memory. What a helper is to know, it is sent.
2. A copy is a child of the process that made it, keeps no descriptor of it but its link, and ends when that closes.
3. Each is made for one module, which it may import while the maker goes on, and becomes that module's `main` once.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final, NoReturn, Self

from sandhold.linux.process import fork
from sandhold.linux.syscalls import rename_process, trim_heap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandhold.linux.process import Child

DESCRIPTORS_MAX: Final = 16  # a helper gets its link, a plan and namespaces: four
ORDER_BYTES_MAX: Final = 256
_NULL: Final = "/dev/null"


class Spares:
    """The copies that wait; each is taken once, what was not taken ends with `close()`."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[_Copy, socket.socket]] = {}

    def make(self, modules: Iterable[str]) -> None:
        """Make a copy for each of these modules of the package. The process must have one thread (fork(2))."""
        gc.collect()
        trim_heap()
        gc.freeze()  # what is alive now stays in pages that the copies share with this process
        for module in modules:
            self._waiting[module] = _make(module)

    def spawn(self, module: str, fds: Sequence[int], *, stderr: int | None = None) -> Child:
        """Let the copy made for `module` become `module.main(fds)`, as `process.spawn_module` does in an interpreter.

        It gets copies of exactly these descriptors, under numbers of its own, an empty environment, and `stderr` in
        place of the null device.

        Raises:
            OSError: when the copy is gone.
        """
        child, link = self._waiting.pop(module)
        null = os.open(_NULL, os.O_RDWR | os.O_CLOEXEC)
        try:
            with link:
                socket.send_fds(link, [module.encode()], [null, null if stderr is None else stderr, *fds])
        except BaseException:
            child.kill()
            child.wait(1.0)
            raise
        finally:
            os.close(null)
        return child

    def close(self) -> None:
        """End the copies that were not taken."""
        for child, link in self._waiting.values():
            link.close()
            child.kill()
            child.wait(1.0)
        self._waiting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Copy:
    """A `Child` that was forked."""

    def __init__(self, pid: int) -> None:
        self._pidfd = os.pidfd_open(pid)
        self._status: int | None = None
        self.pid = pid

    def wait(self, timeout_s: float) -> int:
        """Wait as `Child` says."""
        if self._status is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(max(0.0, timeout_s) * 1000):
                raise TimeoutError(f"process {self.pid} did not end within {timeout_s:g} seconds")
            _, status = os.waitpid(self.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
            self.forget()
        return self._status

    def kill(self) -> None:
        """End it at once."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def forget(self) -> None:
        """Let it live on without us."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _make(module: str) -> tuple[_Copy, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = fork()
    if pid == 0:
        _become(module, theirs.detach())
    theirs.close()
    return _Copy(pid), ours


def _become(module: str, link: int) -> NoReturn:
    """Keep nothing but the link (rule 2), import the module, wait for its descriptors, and run it."""
    status = 1
    try:
        os.closerange(3, link)
        os.closerange(link + 1, os.sysconf("SC_OPEN_MAX"))
        rename_process(module.encode())
        program = importlib.import_module(module)
        with socket.socket(fileno=link) as order:
            word, fds, _, _ = socket.recv_fds(order, ORDER_BYTES_MAX, DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
        if word == module.encode():
            null, stderr, *given = fds
            for number, fd in enumerate((null, null, stderr)):
                os.dup2(fd, number)
            os.close(null)
            os.close(stderr)
            program.main(given)
            status = 0
    except BaseException:  # noqa: BLE001  a copy never runs on into its maker's code
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
