"""The one module that starts processes: programs of the host with bounded output, and children of our own."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from sandhold.linux.syscalls import CLONE_NEWNET, CLONE_NEWUSER, setns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

OUTPUT_BYTES_MAX: Final = 16 << 20  # a listing of every counter a cell can have is a tenth of this
LINE_BYTES_MAX: Final = 4096  # of a line of progress; more is for nobody's eyes
CLEAN_UP_S_MAX: Final = 10.0  # `mmdebstrap` takes down its mounts in less than one
RUN_TIMEOUT_S: Final = 30.0  # `nft` and `ip` answer in milliseconds; a loaded machine gets patience, never for ever

# As `-m` does, without `runpy`, which takes a third of an interpreter's start.
_CALL_MAIN: Final = "import importlib, sys; del sys.argv[0]; importlib.import_module(sys.argv[0]).main()"

# Distributions keep `nft`, `ip` and `newuidmap` in folders that an ordinary user's PATH leaves out.
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program said. `status` is its exit status, negative for the signal that ended it."""

    status: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Where a program runs: descriptors of a network namespace and the user namespace that owns it (None: ours)."""

    network: int
    user: int | None

    def enter(self) -> None:
        """Move this process into them, as root of the user namespace. The owner is entered first: it gives the right
        to enter the other."""
        if self.user is not None:
            setns(self.user, CLONE_NEWUSER)
        setns(self.network, CLONE_NEWNET)
        if self.user is not None:
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)


@dataclass(frozen=True, slots=True)
class UserNamespace:
    """Where a program runs when only its user ids are others: the descriptor of a user namespace."""

    user: int

    def enter(self) -> None:
        """Move this process into it, as its root."""
        setns(self.user, CLONE_NEWUSER)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


def make_ready() -> None:
    """Load what starting a program takes, where that was left for later: with fewer rights it may be out of reach."""
    assert callable(subprocess.run)  # a module that stands in for another one loads it when it is asked for something


def run(
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout_s: float = RUN_TIMEOUT_S,
    env: Mapping[str, str] | None = None,
    inside: Namespaces | UserNamespace | None = None,
) -> Completed:
    """Run a program to its end with no more environment than `env` and a PATH.

    Raises:
        OSError: when it cannot be started, or says more than `OUTPUT_BYTES_MAX`.
        TimeoutError: when it takes longer than `timeout_s`; it has been killed.
    """
    environment = {"PATH": _SYSTEM_PATH, "LC_ALL": "C", **(env or {})}
    program = _found(argv[0], environment["PATH"])
    try:
        done = subprocess.run(
            [program, *argv[1:]],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            env=environment,
            check=False,
            cwd="/",
            # Entering a namespace is one or two system calls between fork and exec; nothing else runs there.
            preexec_fn=inside.enter if inside is not None else None,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"`{argv[0]}` did not end within {timeout_s:g} seconds") from None
    except subprocess.SubprocessError as error:
        raise OSError(f"`{argv[0]}` could not enter the cell's namespaces") from error
    if len(done.stdout) + len(done.stderr) > OUTPUT_BYTES_MAX:
        raise OSError(f"`{argv[0]}` said more than {OUTPUT_BYTES_MAX} bytes")
    return Completed(done.returncode, done.stdout, done.stderr)


def run_checked(argv: Sequence[str], *, stdin: bytes = b"", inside: Namespaces | None = None) -> bytes:
    """Run a program that must succeed and return what it printed.

    Raises:
        OSError: with the program's own words when it fails.
    """
    done = run(argv, stdin=stdin, inside=inside)
    if done.status != 0:
        words = done.stderr.decode("utf-8", "replace").strip()[:2000]
        raise OSError(f"`{argv[0]}` failed with status {done.status}: {words}")
    return done.stdout


def run_lines(
    argv: Sequence[str],
    on_line: Callable[[str], None],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    keep: Sequence[int] = (),
) -> int:
    """Run a program that takes its time, pass on each line it says as it comes, and return its exit status.

    It inherits the descriptors of `keep`: a lock among them stays locked while the program runs, even when we are
    killed. However this ends, the program and what it started (its process group) have been told to end too.

    Raises:
        OSError: when it cannot be started.
        TimeoutError: when it takes longer than `timeout_s`.
    """
    environment = {"PATH": _SYSTEM_PATH, "LC_ALL": "C", **(env or {})}
    program = _found(argv[0], environment["PATH"])
    deadline = time.monotonic() + timeout_s
    with subprocess.Popen(
        [program, *argv[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd="/",
        pass_fds=tuple(keep),
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in _lines(process.stdout.fileno(), deadline):
                on_line(line)
            return process.wait(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            raise TimeoutError(f"`{argv[0]}` did not end within {timeout_s:g} seconds") from None
        finally:
            _end_group(process)


def find_program(name: str) -> str | None:
    """Return the absolute path of a program of the host, or None."""
    for folder in _SYSTEM_PATH.split(":"):
        candidate = f"{folder}/{name}"
        if os.access(candidate, os.X_OK):
            return candidate
    return None


class Child(Protocol):
    """A process of our own."""

    @property
    def pid(self) -> int:
        """Its number, which is its own until `wait` has returned."""

    def wait(self, timeout_s: float) -> int:
        """Return its exit status.

        Raises:
            TimeoutError: when it has not ended by then.
        """

    def kill(self) -> None:
        """End it at once; nothing happens when it has ended."""

    def forget(self) -> None:
        """Let it live on without us: nobody waits for it here."""


class Spawn(Protocol):
    """How a module of this package becomes a process: `spawn_module`, or a copy that waits for it (`spares.py`)."""

    def __call__(self, module: str, fds: Sequence[int], *, stderr: int | None = None) -> Child:
        """Start `module.main(fds)`.

        Raises:
            OSError: when no process can be started.
        """


class Interpreter:
    """A `Child` that runs a function of this package in a fresh interpreter."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def wait(self, timeout_s: float) -> int:
        """Wait as `Child` says."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"process {self.pid} did not end within {timeout_s:g} seconds") from None

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def forget(self) -> None:
        """Let it live on without us."""
        self._process.returncode = 0


def spawn_module(module: str, fds: Sequence[int], *, stderr: int | None = None) -> Child:
    """Start `module.main(fds)` in a fresh, isolated interpreter (`-I -S`: no site, no environment, no current folder).

    The child gets exactly these descriptors beyond 0, 1 and 2, under the same numbers, and an empty environment. The
    command line holds the module's name and those numbers, nothing else: every user of the host can read it.
    """
    source = os.path.realpath(f"{__file__}/../../..")
    program = (
        f"import sys; sys.path.append({source!r}); sys.dont_write_bytecode = True\n"
        f"from {module} import main; main({list(fds)!r})"
    )
    return Interpreter(
        subprocess.Popen(  # its owner waits for it
            [sys.executable, "-I", "-S", "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr if stderr is not None else subprocess.DEVNULL,
            env={},
            cwd="/",
            pass_fds=tuple(fds),
        )
    )


def spawn_program(module: str, arguments: Sequence[str], *, fds: Sequence[int], log: int) -> Child:
    """Start `module.main()` with these arguments in a session of its own (setsid(2)), its words going to `log`.

    Isolated (`-I`) but with this installation's libraries. The child gets exactly these descriptors beyond 0, 1 and 2,
    and an empty environment.
    """
    return Interpreter(
        subprocess.Popen(  # it outlives us, or its owner waits for it
            [sys.executable, "-I", "-c", _CALL_MAIN, module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={},
            cwd="/",
            pass_fds=tuple(fds),
            start_new_session=True,
        )
    )


def fork() -> int:
    """Make a copy of this process, which must have one thread only. fork(2)."""
    return os.fork()


def _lines(fd: int, deadline: float) -> Iterator[str]:
    """Yield lines until end of file, each cut at `LINE_BYTES_MAX`, whatever bytes they hold.

    Raises:
        TimeoutError: when the deadline, in seconds of the monotonic clock, passes first.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    rest = b""
    while True:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        chunk = os.read(fd, LINE_BYTES_MAX)
        *whole, rest = (rest + chunk).split(b"\n")
        if not chunk or len(rest) > LINE_BYTES_MAX:
            whole, rest = [*whole, rest], b""
        yield from (line[:LINE_BYTES_MAX].decode("utf-8", "replace") for line in whole if line)
        if not chunk:
            return


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask what still runs to clean up after itself, then insist."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(CLEAN_UP_S_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _found(name: str, path: str) -> str:
    if "/" in name:
        return name
    for folder in path.split(":"):
        candidate = f"{folder}/{name}"
        if os.access(candidate, os.X_OK):
            return candidate
    raise FileNotFoundError(f"the program `{name}` is not installed")
