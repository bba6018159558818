"""A world that flaps, dribbles and jumps in time."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from sandhold.egress import answers
from sandhold.model.event import Closed, Connection
from tests.simulators import FarEnd, echo, policy, read_all, was_reset

if TYPE_CHECKING:
    import pytest

    from tests.flow.conftest import MakeFarEnd, StartEgress
    from tests.simulators import Internet


def test_a_resolver_that_flaps(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a name comes and goes each connection gets an answer that is no older than `KEPT_S`."""
    monkeypatch.setattr(answers, "KEPT_S", 0.0)
    there = far_end(echo)
    running = egress(policy("allow good.test:22"))
    for round_number in range(6):
        internet.names.clear()
        is_there = round_number % 2 == 0
        address = f"203.0.113.{round_number + 1}"
        if is_there:
            internet.host("good.test", address, {22: there})
        sock = running.dial("good.test", 22)
        sock.sendall(b"\0x")
        if is_there:
            assert sock.recv(2) == b"\0x"
            assert internet.dials[-1] == (address, 22)
        else:
            assert was_reset(sock)
        sock.close()
    assert len(internet.dials) == 3


def test_a_far_end_that_dribbles(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """A response that comes byte by byte arrives whole."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Long: " + b"x" * 200 + b"\r\n\r\nhello"

    def dribble(_: FarEnd, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.recv(65536)
        for at in range(len(answer)):
            sock.sendall(answer[at : at + 1])

    internet.host("good.test", "203.0.113.1", {80: far_end(dribble)})
    sock = egress(policy("allow good.test:80")).dial("good.test", 80)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\nConnection: close\r\n\r\n")
    assert read_all(sock).endswith(b"\r\n\r\nhello")


def test_a_clock_that_jumps(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """Years forward and back between and during connections change no verdict, no wait and no record."""
    internet.host("good.test", "203.0.113.1", {22: far_end(echo)})
    running = egress(policy("allow good.test:22"))
    held = running.dial("good.test", 22)
    held.sendall(b"\0x")
    assert held.recv(2) == b"\0x"
    real = time.time
    for years in (30, -30, 1, 0):
        running.clock = lambda jump=years: real() + jump * 31_536_000.0  # type: ignore[misc]
        with running.dial("good.test", 22) as sock:
            sock.sendall(b"\0y")
            assert sock.recv(2) == b"\0y"
        with running.dial("bad.test", 22) as sock:
            sock.sendall(b"\0y")
            assert was_reset(sock)
        held.sendall(b"\0z")
        assert held.recv(2) == b"\0z"
    held.close()
    ends = running.trail.wait_for(Closed, 9)
    assert all(0 <= each.duration_s < 3600 for each in ends)
    assert [each.decision.is_allowed for each in running.trail.of(Connection)].count(True) == 5
