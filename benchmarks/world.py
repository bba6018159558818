"""The small world everything is measured in: a network namespace with one far end, and processors with fixed work.

The far end stands at an address of a documentation range (RFC 5737) on the namespace's loopback interface, under a name
that the namespace's own `/etc/hosts` knows. Nothing in here can reach anything else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.processes import NotMeasuredError, end

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE: Final = Path(__file__).resolve().parents[1]
WORK: Final = Path(__file__).resolve().parent / ".work"
ADDRESS: Final = "203.0.113.10"
NAME: Final = "good.test"
DENIED_NAME: Final = "denied.test"  # no policy here allows it
TUNNEL_PORT: Final = 443
HTTP_PORT: Final = 80
TIME_WAIT_MAX: Final = "1024"

_INSIDE: Final = "SANDHOLD_BENCH_WORLD"  # set in the environment of the process that is inside already


@dataclass(frozen=True, slots=True)
class World:
    """Where things are, and which processor does what.

    `disk` is a folder of this run on a real file system; its files may belong to anybody.
    """

    disk: Path
    load_cpu: int
    subject_cpu: int

    @contextlib.contextmanager
    def every_cpu(self) -> Iterator[None]:
        """Let what is started meanwhile run on both processors, as it would for a user."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self.load_cpu, self.subject_cpu})
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def on_subject_cpu(self, *words: str) -> list[str]:
        """Return a command line that runs on the processor of what is measured."""
        return ["taskset", "-c", str(self.subject_cpu), *words]


def enter(arguments: list[str]) -> None:
    """Run this program again inside namespaces of its own; returns when it is there already.

    Raises:
        NotMeasuredError: when not root: the far end has ports 80 and 443, and peers change their user.
    """
    if _INSIDE in os.environ:
        return
    if os.geteuid() != 0:
        raise NotMeasuredError("run it as root: it makes namespaces, and peers change to users of their own")
    environment = {**os.environ, _INSIDE: "1"}
    argv = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m", "benchmarks", *arguments]
    sys.stdout.flush()
    os.execvpe("unshare", argv, environment)


@contextlib.contextmanager
def built() -> Iterator[World]:
    """Furnish the namespaces, start the far end, and clean up."""
    processors = sorted(os.sched_getaffinity(0))
    for words in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"],
    ):
        subprocess.run(words, check=True)
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("1024 65535")
    # Ports of connections that have ended are soon free again (ip-sysctl: tcp_max_tw_buckets). With those of every
    # subject before it in TIME_WAIT, the kernel searches milliseconds for a free one: the last would pay for the first.
    Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text(TIME_WAIT_MAX)
    with tempfile.TemporaryDirectory(dir=_disk(), prefix="bench-") as name:
        disk = Path(name)
        disk.chmod(0o755)
        _mount_file(disk / "hosts", f"127.0.0.1 localhost\n{ADDRESS} {NAME}\n", "/etc/hosts")
        _mount_file(disk / "resolv.conf", f"nameserver {ADDRESS}\n", "/etc/resolv.conf")
        world = World(disk, processors[0], processors[-1])
        os.sched_setaffinity(0, {world.load_cpu} if len(processors) > 1 else set(processors))
        with _far_end(world):
            yield world


def _disk() -> str:
    """Return the folder for what a run writes: on disk, not in memory, because peers log there too."""
    return "/var/tmp"  # hier(7): kept over reboots, so never a tmpfs


def _mount_file(path: Path, text: str, target: str) -> None:
    path.write_text(text)
    path.chmod(0o644)
    subprocess.run(["mount", "--bind", str(path), os.path.realpath(target)], check=True)


@contextlib.contextmanager
def _far_end(world: World) -> Iterator[None]:
    argv = [str(WORK / "origin"), ADDRESS, str(TUNNEL_PORT), str(HTTP_PORT), str(world.load_cpu)]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != b"ready\n":
            raise NotMeasuredError("the far end does not listen")
        yield
    finally:
        end(process)


def compile_load() -> None:
    """Compile the load tools, which must cost less than anything they measure: that is why they are in C."""
    WORK.mkdir(exist_ok=True)
    compiler = shutil.which("gcc")
    if compiler is None:
        raise NotMeasuredError("there is no C compiler")
    for tool in ("origin", "client"):
        source = CLONE / "benchmarks" / "load" / f"{tool}.c"
        argv = [compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", str(WORK / tool)]
        subprocess.run([*argv, str(source)], check=True)
