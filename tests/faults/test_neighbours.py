"""One sandbox does its worst; another one on the same host goes on, and when it is over, so does that one."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import pytest

from tests.load.far_ends import FarEnds, echo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.installation import Installation

TRIES = 5

# What runs in the neighbour, over and over: a process, a name, a connection and an answer.
ERRAND = (
    "import socket, sys\n"
    "sock = socket.create_connection(('host.docker.internal', int(sys.argv[1])), 60)\n"
    "sock.settimeout(60)\n"
    "sock.sendall(b'\\0errand')\n"
    "assert sock.recv(7) == b'\\0errand'\n"
    "print('done')\n"
)
DIAL = (
    "import socket, time\n"
    "def dial(host, port):\n"
    "    sock = socket.socket()\n"
    "    sock.settimeout(5)\n"
    "    sock.connect((host, port))\n"
    "    return sock\n"
)
ABUSES = {
    "a fork bomb": (
        "import os\n"
        "while True:\n"
        "    try:\n"
        "        os.fork()\n"
        "    except OSError:\n"
        "        pass\n"
    ),
    "a memory hog": (
        "import time\n"
        "hog = []\n"
        "while True:\n"
        "    hog.append(bytearray(b'x' * (8 << 20)))\n"
        "    time.sleep(0.01)\n"
    ),
    "every descriptor there is": (
        "import os, time\n"
        "while True:\n"
        "    try:\n"
        "        os.pipe()\n"
        "    except OSError:\n"
        "        time.sleep(0.1)\n"
    ),
    "a flood of connections": (
        f"{DIAL}"
        "while True:\n"
        "    try:\n"
        "        dial('203.0.113.9', 80).close()\n"
        "    except OSError:\n"
        "        pass\n"
    ),
    "openings that never end": (
        f"{DIAL}"
        "socks = []\n"
        "while True:\n"
        "    try:\n"
        "        sock = dial('203.0.113.9', 443)\n"
        "        sock.sendall(b'\\x16\\x03\\x01')\n"
        "        socks.append(sock)\n"
        "    except OSError:\n"
        "        socks.clear()\n"
    ),
    "giant heads": (
        f"{DIAL}"
        "while True:\n"
        "    try:\n"
        "        sock = dial('203.0.113.9', 80)\n"
        "        sock.sendall(b'GET / HTTP/1.1\\r\\nHost: a.test\\r\\n' + b'X: y\\r\\n' * 100000)\n"
        "    except OSError:\n"
        "        pass\n"
    ),
    "a flood of lookups": (
        "import socket\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    try:\n"
        "        socket.getaddrinfo(f'n{number}.test', 80)\n"
        "    except OSError:\n"
        "        pass\n"
    ),
    "a flood of output": "while True:\n    print('x' * 10000)\n",
    "a file that grows": (
        "import time\n"
        "with open('/tmp/grown', 'wb') as file:\n"
        "    for _ in range(64):\n"
        "        file.write(b'x' * (4 << 20))\n"
        "time.sleep(600)\n"
    ),
}  # fmt: skip
SHORT = ("a flood of connections",)


@dataclass(frozen=True, slots=True)
class Street:
    """Two running sandboxes, `bad` and `good`, and an echo that both may reach."""

    sbx: Installation
    port: int

    def errand_s(self) -> float:
        """Let `good` do its errand; returns how long that took."""
        start = time.monotonic()
        assert self.sbx.ok("exec", "good", "python3", "-c", ERRAND, str(self.port)) == "done\n"
        return time.monotonic() - start


@pytest.fixture(scope="module")
def street(module_sbx: Installation, module_project: Path) -> Iterator[Street]:
    """Start both, each with limits that a small host can keep."""
    with FarEnds() as ends:
        port = ends.open(echo)
        module_sbx.ok("policy", "allow", "network", f"localhost:{port}")
        for name in ("bad", "good"):
            limits = ("--memory", "512m", "--cpus", "1")
            module_sbx.ok("create", "--template", "host", "--name", name, *limits, "shell", ".", folder=module_project)
            module_sbx.ok("run", "-d", name)
        yield Street(module_sbx, port)


@pytest.mark.parametrize(
    "abuse",
    [pytest.param(name, marks=() if name in SHORT else pytest.mark.long, id=name) for name in ABUSES],
)
def test_a_neighbour_goes_on(street: Street, abuse: str) -> None:
    """While one sandbox does its worst another one starts commands, connects and is answered; then all is well."""
    alone = median(street.errand_s() for _ in range(TRIES))
    started = street.sbx.start("exec", "bad", "python3", "-c", ABUSES[abuse])
    try:
        beside = median(street.errand_s() for _ in range(TRIES))
        assert street.sbx.ok("ls", "-q").split() == ["bad", "good"]
    finally:
        started.kill()  # a command whose user is gone is ended
        started.communicate()
    street.sbx.ok("stop", "bad")
    assert street.sbx.ok("exec", "bad", "echo", "alive") == "alive\n"
    assert "unbroken" in street.sbx.ok("policy", "log", "bad", "--verify")
    street.sbx.ok("run", "-d", "bad")
    sys.stdout.write(f"{abuse}: an errand next door took {beside / alone:.1f} times as long ({beside:.2f} s)\n")
