"""What a process costs is what the kernel says it cost."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks.processes import NotMeasuredError, cpu_seconds, end, pss_bytes, running, timed, tree, wait_listening

if TYPE_CHECKING:
    from pathlib import Path

WORKS_FOR_S = 0.3
BUSY = f"import time\nwhile time.process_time() < {WORKS_FOR_S}: pass\nprint('done', flush=True)\ninput()"
BUSY_THREAD = (
    "import threading, time\n"
    f"def work():\n while time.thread_time() < {WORKS_FOR_S}: pass\n"
    "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
    "print('done', flush=True)\ninput()"
)
BUSY_CHILD = (
    "import subprocess, sys\n"
    f"subprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < {WORKS_FOR_S}: pass'])\n"
    "print('done', flush=True)\ninput()"
)

WORKERS = {
    "its own work counts": BUSY,
    "the work of a thread that has ended counts": BUSY_THREAD,
    "the work of a child that has ended counts": BUSY_CHILD,
}


@pytest.mark.parametrize("program", WORKERS.values(), ids=WORKERS)
def test_processor_time_counts_everything(program: str) -> None:
    """At least the time that was worked is counted, whoever in the process did it."""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        counted = cpu_seconds([process.pid])
        end(process)
    assert counted >= WORKS_FOR_S - 0.02  # an ended child is counted in ticks of 10 ms (proc(5))


def test_a_process_that_is_gone_costs_nothing() -> None:
    """A process that has ended is not an error and not a figure."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert cpu_seconds([process.pid]) == 0
    assert pss_bytes([process.pid]) == 0


def test_a_family_is_counted_once() -> None:
    """A process named twice, by itself and as a child, is weighed once."""
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        family = tree([process.pid])
        assert len(family) == 2
        assert sorted(tree([*family, process.pid])) == sorted(family)
        end(process)


def test_a_command_that_fails_has_no_figure() -> None:
    """The time of a command that failed is the time of something else."""
    with pytest.raises(NotMeasuredError, match="exit status 3: because"):
        timed(["sh", "-c", "echo because >&2; exit 3"])


def test_a_peer_that_ends_at_once_says_why(tmp_path: Path) -> None:
    """What a peer said before it ended is the reason in the report."""
    log = tmp_path / "log"
    with (
        running(["sh", "-c", "echo no such directive; exit 1"], log) as process,
        pytest.raises(NotMeasuredError, match="no such directive"),
    ):
        wait_listening(process, log, None)


def test_a_port_that_a_peer_chose_is_found(tmp_path: Path) -> None:
    """A peer that names no port is found by what it listens on."""
    program = (
        "import socket\ns = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
        "while True: s.accept()[0].close()"
    )
    log = tmp_path / "log"
    with running([sys.executable, "-c", program], log) as process:
        found = wait_listening(process, log, None)
        assert found == int(log.read_text())
