"""A sandbox that tries everything without end: how fast its trail grows, and that nothing of it is missing."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import pytest

from sandhold.egress.folding import DENIALS_BURST, DENIALS_RATE
from sandhold.session.loose_ends import DROPS_BURST, DROPS_RATE, SEVERAL
from sandhold.session.serving import COUNT_DROPPED_FIRST_S

if TYPE_CHECKING:
    from tests.faults.conftest import Lab

SECONDS = 60.0
FLOOD = """
import json, socket, sys, threading, time
until = time.time() + float(sys.argv[1])
done = {"datagrams": 0, "connections": 0}
lock = threading.Lock()
def count(what, number=1):
    with lock:
        done[what] += number
def datagrams():
    for family, address in ((socket.AF_INET, "203.0.113.%d"), (socket.AF_INET6, "2001:db8::%x")):
        threading.Thread(target=send, args=(socket.socket(family, socket.SOCK_DGRAM), address)).start()
def send(sock, address):
    while time.time() < until:
        for number in range(1500):
            try: sock.sendto(b"x", (address % (number % 250 + 1), 1000 + number))
            except PermissionError: count("datagrams")
        time.sleep(0.2)
def connections():
    while time.time() < until:
        try: socket.create_connection(("203.0.113.9", 22), 60).close()
        except ConnectionError: pass
        count("connections")
datagrams()
threads = [threading.Thread(target=connections) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
while threading.active_count() > 1: time.sleep(0.05)
print(json.dumps(done))
"""


@pytest.mark.long
def test_a_flood_of_everything(lab: Lab) -> None:
    """Datagrams to thousands of places and connections, as fast as it goes: every one is in a sum on record, and the
    records are no more than the buckets give."""
    lab.sbx.ok("run", "-d", "lab")
    trail = lab.sbx.state / "audit" / "lab.jsonl"
    began, size = time.monotonic(), trail.stat().st_size
    done = json.loads(lab.sbx.ok("exec", "lab", "python3", "-c", FLOOD, str(SECONDS)))
    lab.sbx.ok("stop", "lab")
    took = time.monotonic() - began
    records = lab.sbx.records("lab")
    dropped = [each for each in records if each["kind"] == "dropped"]
    denied = [each for each in records if each["kind"] == "connection" and each["decision"] == "deny"]
    repeated = [each for each in records if each["kind"] == "repeated" and each["of"] == "connection"]
    grown = (trail.stat().st_size - size) / took / 1000
    sys.stdout.write(f"\n{took:.0f} s: {done}, {len(records)} records, {grown:.0f} kB/s\n")
    assert sum(each["packets"] for each in dropped) >= done["datagrams"] > 0
    assert len(denied) + sum(each["count"] for each in repeated) >= done["connections"] > 0
    told_apart = [each for each in dropped if each["protocol"] != SEVERAL]
    assert len(told_apart) <= DROPS_BURST + DROPS_RATE * took + 1
    assert len(dropped) - len(told_apart) <= took / COUNT_DROPPED_FIRST_S + 2
    assert len(denied) <= DENIALS_BURST + DENIALS_RATE * took + 1
    assert "unbroken" in lab.sbx.ok("policy", "log", "lab", "--verify")
