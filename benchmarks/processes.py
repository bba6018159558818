"""What a process costs, asked of the kernel from outside, and starting and ending those that are measured."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

START_TIMEOUT_S: Final = 30.0  # the slowest peer takes two on a quiet machine
END_TIMEOUT_S: Final = 10.0  # between SIGTERM and SIGKILL
SETTLE_STEP_S: Final = 0.05
SETTLE_TIMEOUT_S: Final = 3.0  # logs and closings that trail behind a load
COMMAND_TIMEOUT_S: Final = 120.0  # starting a thousand times longer than any of these takes
IDLE_SHARE: Final = 0.1  # below this share of a processor a process is not working on the load any more

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_TCP_LISTEN: Final = "0A"  # include/net/tcp_states.h
_CPUCLOCK_SCHED: Final = 2  # linux/posix-timers_types.h: the clock of a process, all its threads, also ended ones


class NotMeasuredError(Exception):
    """A subject cannot be measured; the text is the reason that the report gives."""


def tree(pids: Iterable[int]) -> list[int]:
    """Return these processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return list(dict.fromkeys(found))


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the processor time of processes, of what descends from them, and of children of theirs that ended.

    Nanoseconds from the kernel's per-process clock (clock_getcpuclockid(3)); ended children in ticks (proc(5)).
    """
    total = 0.0
    for pid in tree(pids):
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[13]) + int(fields[14])) / _TICKS
    return total


def settled_cpu_seconds(pids: Sequence[int]) -> float:
    """Return the same once they have stopped working, so that what trails behind a load is counted with it."""
    before = cpu_seconds(pids)
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while time.monotonic() < deadline:
        time.sleep(SETTLE_STEP_S)
        after = cpu_seconds(pids)
        if after - before < IDLE_SHARE * SETTLE_STEP_S:
            return after
        before = after
    return before


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command cost as a whole: seconds on the clock, and of processors, its children's included."""

    wall_s: float
    cpu_s: float


def timed(argv: Sequence[str], *, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Cost:
    """Run a command to its end.

    Raises:
        NotMeasuredError: when it fails, or takes longer than `COMMAND_TIMEOUT_S`.
    """
    before = _children_cpu_seconds()
    began = time.perf_counter()
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            cwd=folder,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotMeasuredError(f"`{argv[0]}` did not end in {COMMAND_TIMEOUT_S:.0f} s") from error
    wall_s = time.perf_counter() - began
    cpu_s = _children_cpu_seconds() - before
    if done.returncode:
        raise NotMeasuredError(
            f"exit status {done.returncode}: {done.stderr.decode('utf-8', 'replace').strip()[-300:]}"
        )
    return Cost(wall_s, cpu_s)


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that nobody announces.

    Raises:
        NotMeasuredError: when it does not come about in time.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise NotMeasuredError(f"never came about: {what}")
        time.sleep(SETTLE_STEP_S)


def pss_bytes(pids: Iterable[int]) -> int:
    """Return the proportional set size: memory of their own plus their part of what they share (proc(5))."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


@contextlib.contextmanager
def running(
    argv: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a program running for the length of a `with`; what it says goes into `log`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, cwd=folder, start_new_session=True
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that descends from it: asked first, then killed."""
    family = tree([process.pid])
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in family[1:]:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()
    if process.stdout is not None:
        process.stdout.close()


def wait_listening(process: subprocess.Popen[bytes], log: Path, port: int | None) -> int:
    """Wait until a process listens on `port` of 127.0.0.1, or on one that it chose (None); returns the port.

    Raises:
        NotMeasuredError: when it does not in time, or has ended.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        for found in [port] if port is not None else sorted(_ports(tree([process.pid]))):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", found), 1):
                return found
        select.select([], [], [], 0.02)
    said = log.read_text("utf-8", "replace").strip().splitlines()[-3:]
    raise NotMeasuredError(f"does not listen: {' / '.join(said) or 'no word'}")


def _ports(pids: Iterable[int]) -> set[int]:
    """Return the TCP ports that these listen on, as /proc/net/tcp tells."""
    listening = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _TCP_LISTEN:
            listening[f"socket:[{fields[9]}]"] = int(fields[1].rpartition(":")[2], 16)
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    found.add(listening.get(str(fd.readlink())))
    return {port for port in found if port is not None}
