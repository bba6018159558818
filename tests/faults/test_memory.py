"""Egress or the session without memory to spare: nothing passes unrecorded, and afterwards the sandbox works."""

from __future__ import annotations

import resource
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.test_full_disk import TRY
from tests.installation import wait_until
from tests.load import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.conftest import Lab

# Connections that each have much to say at once, half of them heads that never end and are as long as they may be.
LOAD = (
    "import socket, sys\n"
    "socks = []\n"
    "for number in range(800):\n"
    "    sock = socket.socket()\n"
    "    sock.settimeout(2)\n"
    "    try:\n"
    "        sock.connect(('host.docker.internal', int(sys.argv[1])))\n"
    "        sock.sendall(b'\\0x' if number % 2 else b'GET / HTTP/1.1\\r\\nHost: a\\r\\n' + b'X: ' + b'y' * 60000)\n"
    "        socks.append(sock)\n"
    "    except OSError:\n"
    "        sock.close()\n"
    "print('loaded', flush=True)\n"
    "sys.stdin.readline()\n"
)
COMMANDS = 12
ARGUMENT = "x" * 60_000


def test_egress_without_memory(lab: Lab) -> None:
    """With all the memory of egress in use connections are denied and none passes unrecorded. It goes on with more, or
    cannot go on: then its session has ended and says so, and the next one works."""
    lab.sbx.ok("run", "-d", "lab")
    egress = processes.parts(lab.sbx, "lab")[processes.EGRESS]
    with all_memory_in_use(egress):
        client = lab.sbx.start("exec", "-i", "lab", "python3", "-c", LOAD, str(lab.port))
        assert client.stdout is not None
        assert client.stdout.readline()  # it has done its worst, or its sandbox has ended
        wait_until(lambda: "MemoryError" in lab.sbx.ok("logs", "lab"), "egress runs out of memory")
        assert_all_permitted(lab)
    client.communicate("\n", timeout=120)
    wait_until(lambda: lab.status() == "running" or processes.is_gone(egress), "egress goes on, or its session ends")
    if processes.is_gone(egress):
        wait_until(lambda: lab.status() == "stopped", "its session ends")
        assert lab.sbx.records("lab")[-1]["reason"] == "egress-died"
        assert_all_permitted(lab)
        lab.sbx.ok("run", "-d", "lab")
    assert_goes_on(lab)


def test_a_session_without_memory(lab: Lab) -> None:
    """With all the memory of a session in use commands run or are refused, nothing is lost, and it goes on."""
    lab.sbx.ok("run", "-d", "lab")
    session = processes.parts(lab.sbx, "lab")[processes.SESSION]
    with all_memory_in_use(session):
        started = [lab.sbx.start("exec", "lab", "echo", ARGUMENT) for _ in range(COMMANDS)]
        said = [(each.communicate(timeout=120)[0].strip(), each.returncode) for each in started]
        assert_all_permitted(lab)
    assert [status for text, status in said if status == 0 and text != ARGUMENT] == []
    assert_goes_on(lab)


@contextmanager
def all_memory_in_use(pid: int) -> Iterator[None]:
    """Let a process map no more than it has (setrlimit(2), RLIMIT_AS) meanwhile."""
    mapped = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (mapped, hard))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, (hard, hard))


def assert_all_permitted(lab: Lab) -> None:
    """Hold the connections that arrived against the permissions on record at this moment."""
    arrived = lab.ends.accepted[lab.port]
    records = lab.sbx.records("lab")
    assert arrived <= sum(each["kind"] == "connection" and each["decision"] == "allow" for each in records)


def assert_goes_on(lab: Lab) -> None:
    """What ran goes on to run, and in the end each connection has its end on record."""
    assert lab.status() == "running"
    assert lab.sbx.ok("exec", "lab", "python3", "-c", TRY, str(lab.port)) == "answered\n"
    lab.sbx.ok("stop", "lab")
    records = lab.sbx.records("lab")
    permitted = {each["event"] for each in records if each["kind"] == "connection" and each["decision"] == "allow"}
    assert permitted <= {each["event"] for each in records if each["kind"] == "closed"}
    assert "unbroken" in lab.sbx.ok("policy", "log", "lab", "--verify")
