"""Egress without a descriptor to spare."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from tests.installation import wait_until
from tests.load import processes

if TYPE_CHECKING:
    from tests.faults.conftest import Lab

MANY = (
    "import socket, sys\n"
    "socks = []\n"
    "for _ in range(40):\n"
    "    sock = socket.socket()\n"
    "    sock.settimeout(60)\n"
    "    sock.connect(('host.docker.internal', int(sys.argv[1])))\n"
    "    sock.sendall(b'\\0x')\n"
    "    socks.append(sock)\n"
    "print('connected', flush=True)\n"
    "sys.stdin.readline()\n"
    "answers = 0\n"
    "for sock in socks:\n"
    "    try:\n"
    "        answers += sock.recv(2) == b'\\0x'\n"
    "    except OSError:\n"
    "        pass\n"
    "    sock.close()\n"
    "print(answers)\n"
)
SPARE = 8  # descriptors: for some connections, not for forty


def test_egress_without_descriptors(lab: Lab) -> None:
    """With all descriptors of egress in use nothing crashes and nothing passes unrecorded; later it goes on."""
    lab.sbx.ok("run", "-d", "lab")
    egress = processes.parts(lab.sbx, "lab")[processes.EGRESS]
    _, hard = resource.prlimit(egress, resource.RLIMIT_NOFILE)
    resource.prlimit(egress, resource.RLIMIT_NOFILE, (processes.use_of(egress).descriptors + SPARE, hard))
    client = lab.sbx.start("exec", "-i", "lab", "python3", "-c", MANY, str(lab.port))
    assert client.stdout is not None
    assert client.stdout.readline() == "connected\n"
    wait_until(lambda: lab.ends.accepted[lab.port] > 0, "some arrive")
    resource.prlimit(egress, resource.RLIMIT_NOFILE, (hard, hard))
    answers, _ = client.communicate("\n", timeout=120)
    assert int(answers) > SPARE, "those that waited are served later"
    lab.sbx.ok("stop", "lab")
    records = lab.sbx.records("lab")
    permitted = [each["event"] for each in records if each["kind"] == "connection" and each["decision"] == "allow"]
    assert lab.ends.accepted[lab.port] <= len(permitted)
    assert set(permitted) <= {each["event"] for each in records if each["kind"] == "closed"}
    assert "unbroken" in lab.sbx.ok("policy", "log", "lab", "--verify")
