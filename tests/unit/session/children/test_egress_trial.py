"""Egress is asked a question from inside before anything starts there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[4] / "src"

TRIAL = """
import socket, sys, threading
sys.path.insert(0, sys.argv[1])
from sandhold.linux.process import run_checked
from sandhold.session.children import egress_trial

run_checked(["ip", "link", "set", "lo", "up"])
run_checked(["ip", "address", "add", "10.200.0.1/32", "dev", "lo"])
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("10.200.0.1", 53))

def answer():
    question, asker = server.recvfrom(512)
    server.sendto(eval(sys.argv[2]), asker)

threading.Thread(target=answer).start()
try:
    egress_trial.ask_egress(socket.socket(type=socket.SOCK_DGRAM))
except egress_trial.EgressError as error:
    print(error)
"""

WRONG = "egress answers inside the sandbox with something else than was asked for\n"
ANSWERS = {
    "the gateway's address": ("question + bytes([10, 200, 0, 1])", ""),
    "another address": ("question + bytes([10, 200, 0, 2])", WRONG),
    "an answer to another question": ("b'xx' + question[2:] + bytes([10, 200, 0, 1])", WRONG),
    "nothing at all": ("b''", WRONG),
}


@pytest.mark.parametrize(("answer", "said"), ANSWERS.values(), ids=ANSWERS)
def test_a_wrong_answer_holds_nothing(answer: str, said: str) -> None:
    """Only the address of the gateway, in answer to this very question, is an answer."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    done = subprocess.run(
        ["unshare", *user, "--net", sys.executable, "-W", "ignore", "-c", TRIAL, str(SOURCE), answer],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == said
