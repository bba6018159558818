"""What a kernel of one's own costs: the two kinds of cell side by side. `python -m benchmarks.machines`, as root.

Each figure is the median over the rounds, which take turns. Nothing reaches a network: the far end is a server of this
machine's, allowed by a rule. How the machine runs (by the processor, or emulated) is part of the report.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandhold.cell.boot.boot_files import find_boot_files
from sandhold.cell.images.templates import find_template
from sandhold.cell.machine import acceleration, snapshots
from sandhold.cell.machine.parts import first_shape
from sandhold.cell.machine.qemu import Board
from sandhold.model.sandbox import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS: Final = ("namespaces", "microvm")
ROUNDS: Final = 5
MEMORY_BYTES: Final = 1 << 30  # of each sandbox
GIVEN_BACK_S: Final = 5.0  # a guest tells of its free pages every two seconds
BOOTED: Final = "start to first command of a machine that boots, s"
COMMAND_S_MAX: Final = 900.0  # an emulated machine on a busy host
DOWNLOAD_BYTES: Final = 64 << 20
RESULT: Final = Path(__file__).parent / "results" / "microvm.md"

INSIDE: Final = """
import http.client, json, os, sys, time
port, folder = int(sys.argv[1]), sys.argv[2]
def timed(work):
    start = time.monotonic(); work(); return time.monotonic() - start
def get(host, port, path="/small"):
    connection = http.client.HTTPConnection(host, port, timeout=300)
    connection.request("GET", path); body = connection.getresponse().read(); connection.close()
    return len(body)
def each(count, work):
    took = sorted(timed(work) for _ in range(count)); return took[count // 2]
def many(place):
    names = [f"{place}/file{number}" for number in range(200)]
    for name in names:
        with open(name, "w") as file: file.write("x")
    for name in names: os.stat(name)
    for name in names: os.unlink(name)
def large(place):
    with open(f"{place}/large", "wb") as file:
        for _ in range(64): file.write(bytes(1 << 20))
        file.flush(); os.fsync(file.fileno())
    os.unlink(f"{place}/large")
host = "host.docker.internal"
get(host, port)
print(json.dumps({
    "a denied request, ms": 1000 * each(20, lambda: get("denied.test", 80)),
    "an allowed request, ms": 1000 * each(20, lambda: get(host, port)),
    "download, MB/s": 64 * 1.048576 / timed(lambda: get(host, port, "/large")),
    "200 files made, looked at and deleted in the workspace, s": timed(lambda: many(folder)),
    "the same in the home, s": timed(lambda: many(os.path.expanduser("~"))),
    "64 MiB written and synced in the workspace, s": timed(lambda: large(folder)),
    "the same in the home, s, ": timed(lambda: large(os.path.expanduser("~"))),
    "two million turns of a Python loop, s": timed(lambda: [None for _ in range(2000000)]),
}))
"""


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer with many bytes or few."""
        size = DOWNLOAD_BYTES if self.path == "/large" else 2
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        for start in range(0, size, 1 << 16):
            self.wfile.write(bytes(min(1 << 16, size - start)))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Measure and write the report."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as home:
        sbx = _Sbx(Path(home))
        try:
            reason = _measure(sbx, server.server_port, rounds, figures)
        finally:
            with contextlib.suppress(SystemExit):  # what failed before is what counts
                sbx("rm", "-f", *KINDS)
            server.shutdown()
            server.server_close()
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(_report(figures, rounds, reason))
    sys.stdout.write(RESULT.read_text())


class _Sbx:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.work = home / "work"
        self.work.mkdir()
        data = os.environ.get("XDG_DATA_HOME", str(Path.home() / ".local/share"))
        self.environment = {**os.environ, "XDG_STATE_HOME": str(home / "state"), "XDG_DATA_HOME": data}

    def __call__(self, *words: str, given: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "sandhold", *words],
            cwd=self.work,
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"sbx {' '.join(words)}: {done.stderr}")
        return done.stdout


def _measure(sbx: _Sbx, port: int, rounds: int, figures: dict[str, dict[str, list[float]]]) -> str:
    for kind in KINDS:
        sbx("create", "--isolation", kind, "--template", "debian", "--memory", "1g", "--name", kind, "shell", ".")
        sbx("policy", "allow", "network", f"localhost:{port}", "--sandbox", kind)
        sbx("exec", kind, "true")
    for _ in range(rounds):
        with _nothing_to_restore(sbx):
            figures["microvm"][BOOTED].append(_timed(lambda: sbx("exec", "microvm", "true")))
        for kind in KINDS:
            found = figures[kind]
            found["start to first command, s"].append(_timed(lambda kind=kind: sbx("exec", kind, "true")))
            sbx("run", "-d", kind)
            found["a command in a running sandbox, s"].append(_timed(lambda kind=kind: sbx("exec", kind, "true")))
            found["memory of an idle sandbox, MB"].append(_memory(sbx, kind))
            sbx("exec", kind, "python3", "-c", "print(len(bytearray(b'x') * (400 << 20)))")
            time.sleep(GIVEN_BACK_S)
            found["the same after a program that filled 400 MiB has ended, MB"].append(_memory(sbx, kind))
            said = sbx("exec", "-i", kind, "python3", "-", str(port), str(sbx.work), given=INSIDE)
            for name, value in json.loads(said).items():
                found[name].append(value)
            found["stop, s"].append(_timed(lambda kind=kind: sbx("stop", kind)))
    return str(json.loads(sbx("inspect", "microvm"))["isolation_reason"])


def _timed(work: object) -> float:
    start = time.monotonic()
    assert callable(work)
    work()
    return time.monotonic() - start


@contextlib.contextmanager
def _nothing_to_restore(sbx: _Sbx) -> Iterator[None]:
    """Have the machines of this size boot, as where no snapshot can be made."""
    data = Path(sbx.environment["XDG_DATA_HOME"]) / "sandhold"
    boot = find_boot_files(data / "vm", find_template(data / "templates", "debian"))
    assert boot is not None
    shape = first_shape(Limits(None, MEMORY_BYTES, 0), acceleration.look(data / "vm").acceleration)
    names = [snapshots.name_of(boot, replace(shape, board=board)) for board in Board]
    folder = data / "vm" / snapshots.FOLDER
    kept = [name for name in names if (folder / name).is_dir()]
    for name in names:
        snapshots.give_up(data / "vm", name, "a benchmark wants to see it boot", is_lasting=True)
        if name in kept:
            (folder / name).rename(folder / f".{name}")
    try:
        yield
    finally:
        for name in names:
            (folder / f"{name}.refused").unlink(missing_ok=True)
            if name in kept:
                (folder / f".{name}").rename(folder / name)


def _memory(sbx: _Sbx, name: str) -> float:
    """Return the memory of a session and all it started, shared pages by their share (proc_pid_smaps(5)), in MB. What a
    restored machine has of its snapshot counts whole, whether it has looked at it or not."""
    marker = sbx.home / "state" / "sandhold" / "sandboxes" / name / "session.json"
    left, total = [int(json.loads(marker.read_text())["pid"])], 0.0
    while left:
        process = Path("/proc", str(left.pop()))
        with contextlib.suppress(OSError):  # it has ended meanwhile
            lines = (process / "smaps_rollup").read_text().splitlines()[1:]
            sizes = {line.split()[0]: int(line.split()[1]) for line in lines}
            total += sizes["Pss:"]
            for fd in (process / "fd").iterdir():
                if fd.readlink().name.startswith("memfd:memory") and process.joinpath("comm").read_text()[:4] == "qemu":
                    total += fd.stat().st_blocks / 2 - sizes["Pss_Shmem:"]
                    break
            for task in (process / "task").iterdir():
                left += map(int, (task / "children").read_text().split())
    return total / 1000


def _report(figures: dict[str, dict[str, list[float]]], rounds: int, reason: str) -> str:
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    lines = [
        "# What a kernel of one's own costs",
        "",
        f"`python -m benchmarks.machines {rounds}`, medians of {rounds}, in brackets the least and the greatest. "
        f"Linux {os.uname().release.partition('-')[0]}, {os.cpu_count()} processors, load at the end {load}.",
        f"The machine is {reason}. The same command measures a machine that the processor runs, where it does.",
        "",
        f"| | {' | '.join(KINDS)} |",
        f"|---|{'---|' * len(KINDS)}",
    ]
    for name in (BOOTED, *figures[KINDS[0]]):
        cells = [_cell(figures[kind][name]) if figures[kind][name] else "" for kind in KINDS]
        lines.append(f"| {name.rstrip(', ')} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
