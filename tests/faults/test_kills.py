"""Whatever is killed, everything that was permitted is on record with its end."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.installation import wait_until
from tests.load import processes
from tests.load.crash_rounds import crash

if TYPE_CHECKING:
    from tests.faults.conftest import Lab

HOLDING = (
    "import socket, sys\n"
    "sock = socket.create_connection(('host.docker.internal', int(sys.argv[1])), 60)\n"
    "sock.sendall(b'\\0held')\n"
    "sock.recv(5)\n"
    "print('held', flush=True)\n"
    "sock.recv(1)\n"
)


@pytest.mark.parametrize("part", [processes.EGRESS, processes.SESSION, processes.FIRST])
def test_an_open_connection_has_an_end_on_record(lab: Lab, part: str) -> None:
    """A connection that was open when a part of its session was killed has one end on record."""
    lab.sbx.ok("run", "-d", "lab")
    client = lab.sbx.start("exec", "lab", "python3", "-c", HOLDING, str(lab.port))
    assert client.stdout is not None
    assert client.stdout.readline() == "held\n"
    os.kill(processes.parts(lab.sbx, "lab")[part], signal.SIGKILL)
    client.communicate(timeout=60)
    wait_until(lambda: lab.status() != "running", "the session ends")
    lab.sbx.ok("stop", "lab")  # puts in order what a killed session left
    records = lab.sbx.records("lab")
    permitted = [each["event"] for each in records if each["kind"] == "connection" and each["decision"] == "allow"]
    ends = [each["event"] for each in records if each["kind"] == "closed"]
    assert len(permitted) == 1
    assert ends == permitted
    assert "unbroken" in lab.sbx.ok("policy", "log", "lab", "--verify")


def test_ten_crash_rounds() -> None:
    """Ten random kills under load lose no record and let nothing pass without one."""
    tally = crash(10, seed=5)
    assert tally.problems == []
    assert tally.rounds == 10
    assert min(tally.seen[what] for what in ("connections", "requests", "refusals", "records")) > 0


@pytest.mark.long
def test_two_thousand_crash_rounds() -> None:
    """Two thousand random kills under load lose no record and let nothing pass without one."""
    assert crash(2000, seed=2000).problems == []
