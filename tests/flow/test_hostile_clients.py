"""Clients that do anything at all: whatever they do is denied or served, recorded, and over."""

from __future__ import annotations

import random
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest

from sandhold.model.decision import Reason
from sandhold.model.event import Closed, Connection, Request
from tests.simulators import FarEnd, Internet, policy

if TYPE_CHECKING:
    from tests.flow.conftest import MakeFarEnd, StartEgress

CLIENTS: Final = 300
RESET: Final = struct.pack("ii", 1, 0)
PIECES: Final = (
    b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    b"POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 9\r\n\r\nabc",
    b"CONNECT good.test:443 HTTP/1.1\r\nHost: good.test:443\r\n\r\n",
    b"CONNECT evil.test:22 HTTP/1.1\r\nHost: evil.test:22\r\n\r\n",
    b"GET http://good.test/ HTTP/1.1\r\nHost: good.test\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"SSH-2.0-x\r\n",
    b"0\r\n\r\n",
    b"\x05\x01\x00",
    b"\0" * 100,
    b"\r\n",
)


def moody(far_end: FarEnd, sock: socket.socket) -> None:
    """A far end that answers, breaks off or resets, by turns."""
    mood = far_end.accepted % 4
    sock.settimeout(0.2)
    with suppress(TimeoutError):
        sock.recv(65536)
    if mood == 0:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    elif mood == 1:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nhalf")
    elif mood == 2:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_is_on_record_and_over(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    """Random pieces, ends and resets on every port leave a decision and one end each, and nothing behind."""
    choose = random.Random(seed)
    there = far_end(moody)
    internet.host("good.test", "203.0.113.7", {22: there, 80: there, 443: there})
    gate = egress(policy("allow good.test:22", "allow good.test"))
    socks = []
    for _ in range(CLIENTS):
        kind = choose.random()
        if kind < 0.3:
            sock = gate.dial_proxy()
        else:
            sock = gate.dial(choose.choice(["good.test", "evil.test"]), choose.choice([22, 80, 443]))
        with suppress(OSError):
            for _ in range(choose.randrange(4)):
                sock.sendall(choose.choice(PIECES)[: choose.choice([3, 30, 300])])
        ending = choose.random()
        if ending < 0.3:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if ending < 0.6:
            sock.close()
        elif ending < 0.8:
            with suppress(OSError):
                sock.shutdown(1)
        socks.append(sock)
    gate.trail.wait_for(Closed, CLIENTS // 2)  # about as many as left of their own accord
    last = gate.dial_proxy()
    last.sendall(b"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n")
    assert last.recv(12) == b"HTTP/1.1 403"  # connections are accepted in turn: it saw all the others come
    gate.say({"stop": True})
    assert gate.hear() == {"stopped": True}
    gate.wait_ended()
    connections = {event.event for event in gate.trail.of(Connection)}
    requests = {event.event for event in gate.trail.of(Request)}
    ends = [event.event for event in gate.trail.of(Closed)]
    assert len(connections) == CLIENTS + 1
    assert len(ends) == len(set(ends))
    assert set(ends) == connections | requests
    assert capsys.readouterr().err == ""
    assert Reason.INTERNAL_ERROR not in {event.decision.reason for event in gate.trail.of(Connection)}
    evil = [event for event in gate.trail.of(Connection) if "evil.test" in str(event.destination)]
    assert evil
    assert not any(event.decision.is_allowed for event in evil)
    assert "evil.test" not in internet.lookups
    for sock in socks:
        sock.close()
