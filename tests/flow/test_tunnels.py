"""What is carried unread: CONNECT, other protocols by name, far ends that speak first, bulk and half-close."""

from __future__ import annotations

import hashlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from sandhold.egress import connection, relay, server
from sandhold.model.decision import Reason
from sandhold.model.destination import HostService, Source
from sandhold.model.event import Closed, Connection, Established, Request, Via, Why
from tests.simulators import FarEnd, Internet, echo, policy, read_all, read_until, tls_echo, was_reset

if TYPE_CHECKING:
    from sandhold.egress.certificates import Authority
    from tests.flow.conftest import MakeFarEnd, StartEgress

GOOD = "203.0.113.7"
BULK_BYTES = 10 * 1024 * 1024


def connect(target: bytes) -> bytes:
    """A CONNECT head."""
    return b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\n\r\n"


def test_a_connect_carries_tls_for_its_own_name(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, worlds: Authority
) -> None:
    """TLS inside an allowed CONNECT is passed through when its server name is the one that was asked for."""
    internet.host("good.test", GOOD, {443: far_end(tls_echo(worlds, "good.test"))})
    gate = egress(policy("allow good.test"))
    sock = gate.dial_proxy()
    sock.sendall(connect(b"good.test:443"))
    assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    tls = gate.tls(sock, "good.test", [worlds.certificate_pem.decode()])
    tls.sendall(b"x")
    assert tls.recv(1) == b"x"
    (connection,) = gate.trail.of(Connection)
    assert connection.via is Via.PROXY
    assert [claim.source for claim in connection.claims] == [Source.CONNECT, Source.SNI]


def test_a_denied_connect_for_tls_is_answered_inside(egress: StartEgress, internet: Internet, ours: Authority) -> None:
    """A CONNECT to a denied name on port 443 gets its 403 over TLS, where every client shows it."""
    gate = egress(policy("allow good.test"))
    sock = gate.dial_proxy()
    sock.sendall(connect(b"evil.test:443"))
    read_until(sock, b"\r\n\r\n")
    tls = gate.tls(sock, "evil.test", [ours.certificate_pem.decode()])
    tls.sendall(b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")
    assert internet.is_untouched
    assert tls.recv(12) == b"HTTP/1.1 403"
    assert gate.trail.wait_for(Connection)[0].decision.reason is Reason.NO_RULE


PLAINLY_DENIED = {
    "a denied name on another port": (b"evil.test:22", Reason.NO_RULE),
    "an allowed name on another port": (b"good.test:22", Reason.NO_RULE),
    "the proxy itself by address": (b"10.200.0.1:3128", Reason.PROXY_SELF),
    "the proxy itself by its other address": (b"[fd5b:78::1]:443", Reason.PROXY_SELF),
    "the proxy itself by name": (b"gateway.sbx.internal:3128", Reason.PROXY_SELF),
    "a synthetic address that stands for nothing": (b"198.18.0.9:443", Reason.UNKNOWN_ADDRESS),
    "the user's machine without a rule": (b"localhost:11434", Reason.NO_RULE),
    "an address in the floor": (b"10.0.0.1:22", Reason.ADDRESS_FLOOR),
}


@pytest.mark.parametrize(("target", "reason"), PLAINLY_DENIED.values(), ids=PLAINLY_DENIED.keys())
def test_a_denied_connect_is_answered_with_a_403(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, target: bytes, reason: Reason
) -> None:
    """A CONNECT that is denied never sees a 200, and what was sent behind it goes nowhere."""
    there = far_end(echo)
    internet.host("good.test", GOOD, {22: there, 443: there})
    gate = egress(policy("allow good.test"))
    sock = gate.dial_proxy()
    sock.sendall(connect(target) + b"early bytes")
    sock.shutdown(1)
    answer = read_all(sock)
    assert there.accepted == 0
    assert internet.is_untouched
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert gate.trail.wait_for(Connection)[0].decision.reason is reason


def test_early_bytes_behind_a_connect_are_kept(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """What is sent before the 200 arrives at the far end, once, after the decision."""
    there = far_end(echo)
    internet.host("good.test", GOOD, {22: there})
    gate = egress(policy("allow good.test:22"))
    sock = gate.dial_proxy()
    sock.sendall(connect(b"good.test:22") + b"SSH-2.0-early\r\n")
    assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert sock.recv(100) == b"SSH-2.0-early\r\n"
    assert there.heard == [b"SSH-2.0-early\r\n"]


def test_a_connect_to_the_tls_port_carries_nothing_else(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """Inside a CONNECT to port 443 anything but TLS and HTTP is denied, however allowed the name is."""
    there = far_end(echo)
    internet.host("good.test", GOOD, {443: there})
    gate = egress(policy("allow good.test"))
    sock = gate.dial_proxy()
    sock.sendall(connect(b"good.test:443") + b"SSH-2.0-x\r\n")
    read_until(sock, b"\r\n\r\n")
    assert was_reset(sock)
    assert there.accepted == 0
    assert gate.trail.wait_for(Connection)[0].decision.reason is Reason.NO_PROTOCOL


def test_another_protocol_is_reset_on_the_proxy_port(egress: StartEgress, internet: Internet) -> None:
    """SOCKS, or anything else that is no HTTP, is not spoken to."""
    gate = egress(policy("allow **"))
    sock = gate.dial_proxy()
    sock.sendall(b"\x05\x01\x00")
    assert was_reset(sock)
    assert internet.dials == []
    assert not gate.trail.wait_for(Connection)[0].decision.is_allowed


def test_any_protocol_goes_to_an_allowed_name_and_port(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """SSH by name just works when a rule allows the port, and is on record with the name."""
    there = far_end(echo)
    internet.host("good.test", GOOD, {22: there})
    gate = egress(policy("allow good.test:22"))
    sock = gate.dial("good.test", 22)
    sock.sendall(b"SSH-2.0-client\r\n")
    assert sock.recv(100) == b"SSH-2.0-client\r\n"
    sock.close()
    gate.trail.wait_for(Closed)
    assert str(gate.trail.of(Connection)[0].destination) == "good.test:22"


def test_any_protocol_is_reset_at_a_denied_name(egress: StartEgress, internet: Internet) -> None:
    """A client that waits for a denied server is not left hanging."""
    gate = egress(policy("allow good.test"))
    assert was_reset(gate.dial("good.test", 22))
    assert internet.is_untouched
    assert gate.trail.wait_for(Connection)[0].decision.reason is Reason.NO_RULE


def test_the_far_end_may_speak_first(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """A protocol in which the server greets works, and what the client says then is forwarded."""

    def talk(_: FarEnd, sock: socket.socket) -> None:
        sock.sendall(b"220 hello\r\n")
        sock.sendall(b"you said " + sock.recv(100))

    internet.host("good.test", GOOD, {25: far_end(talk)})
    gate = egress(policy("allow good.test:25"))
    sock = gate.dial("good.test", 25)
    assert sock.recv(100) == b"220 hello\r\n"
    sock.sendall(b"EHLO me\r\n")
    assert read_all(sock) == b"you said EHLO me\r\n"


def test_late_tls_is_judged_all_the_same(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, worlds: Authority
) -> None:
    """A client that waits until the far end was let in cannot then name another server."""
    there = far_end(echo)
    internet.host("good.test", GOOD, {8443: there})
    gate = egress(policy("allow good.test:8443"))
    sock = gate.dial("good.test", 8443)
    gate.trail.wait_for(Established)
    with pytest.raises(ConnectionError):
        gate.tls(sock, "evil.test", [worlds.certificate_pem.decode()])
    gate.trail.wait_for(Closed)
    assert there.heard == []
    assert [event.decision.is_allowed for event in gate.trail.of(Connection)] == [True, False]


DISGUISED = {
    "a request behind an empty line": b"\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    "half a request": b"GET / HTTP/1.1\r\nHost: evil.test\r\n",
    "half a ClientHello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("opening", DISGUISED.values(), ids=DISGUISED)
def test_web_in_disguise_is_not_passed_on(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, opening: bytes
) -> None:
    """On a port that may be spoken to in anything, HTTP and TLS that could hide a name are still refused."""
    there = far_end(echo)
    internet.host("good.test", GOOD, {8080: there})
    gate = egress(policy("allow good.test:8080"))
    sock = gate.dial("good.test", 8080)
    sock.sendall(opening)
    sock.shutdown(socket.SHUT_WR)
    (closed,) = gate.trail.wait_for(Closed)
    assert there.heard == []
    assert internet.is_untouched
    assert closed.why is Why.REFUSED
    assert [event.decision.reason for event in gate.trail.of(Connection)] == [Reason.MALFORMED]


def test_late_http_is_read_all_the_same(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """A slow HTTP client on another port is judged request by request on the connection that was opened for it."""

    def talk(there: FarEnd, sock: socket.socket) -> None:
        there.heard.append(read_until(sock, b"\r\n\r\n"))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        read_all(sock)

    there = far_end(talk)
    internet.host("good.test", GOOD, {8080: there})
    gate = egress(policy("allow good.test:8080"))
    sock = gate.dial("good.test", 8080)
    gate.trail.wait_for(Established)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: good.test:8080\r\n\r\n")
    read_until(sock, b"ok")
    sock.sendall(b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")
    assert sock.recv(12) == b"HTTP/1.1 403"
    assert len(there.heard) == there.accepted == 1
    assert len(gate.trail.wait_for(Request, 2)) == 2


def test_the_users_machine_is_dialled_on_its_loopback(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """A `localhost` rule opens that port of the user's machine, by its name inside, and without a look-up."""
    internet.places["127.0.0.1", 11434] = far_end(echo)
    gate = egress(policy("allow localhost:11434"))
    sock = gate.dial("host.docker.internal", 11434)
    sock.sendall(b"SSH-2.0-x\r\n")
    assert sock.recv(100) == b"SSH-2.0-x\r\n"
    assert internet.lookups == []
    destination = gate.trail.of(Connection)[0].destination
    assert destination is not None
    assert destination.host == HostService()


def test_bulk_arrives_whole_both_ways(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """Megabytes in both directions at once arrive byte for byte, and are counted."""
    internet.host("good.test", GOOD, {9000: far_end(echo)})
    gate = egress(policy("allow good.test:9000"))
    sock = gate.dial("good.test", 9000)
    block = bytes(range(256)) * 4096
    sent = hashlib.sha256()

    def send() -> None:
        for number in range(BULK_BYTES // len(block)):
            piece = number.to_bytes(4, "big") + block[4:]
            sent.update(piece)
            sock.sendall(piece)
        sock.shutdown(1)

    thread = threading.Thread(target=send)
    thread.start()
    got = hashlib.sha256()
    while data := sock.recv(262144):
        got.update(data)
    thread.join()
    assert got.digest() == sent.digest()
    (closed,) = gate.trail.wait_for(Closed)
    assert closed.bytes_up == closed.bytes_down == BULK_BYTES
    assert closed.why is Why.DONE


def test_a_half_closed_connection_still_answers(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """A client that has said everything and ended its direction still gets the whole answer."""

    def talk(there: FarEnd, sock: socket.socket) -> None:
        question = read_all(sock)
        there.heard.append(question)
        sock.sendall(question * 1000)

    internet.host("good.test", GOOD, {9000: far_end(talk)})
    gate = egress(policy("allow good.test:9000"))
    sock = gate.dial("good.test", 9000)
    sock.sendall(b"question")
    sock.shutdown(1)
    assert read_all(sock) == b"question" * 1000


def test_a_half_closed_connection_answers_more_than_sockets_hold(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """The side that has ended is still written to when it has room again, however often it has none."""
    answer = bytes(range(256)) * 65536  # 16 MiB

    def talk(_: FarEnd, sock: socket.socket) -> None:
        read_all(sock)
        sock.sendall(answer)

    internet.host("good.test", GOOD, {9000: far_end(talk)})
    gate = egress(policy("allow good.test:9000"))
    sock = gate.dial("good.test", 9000)
    sock.sendall(b"question")
    sock.shutdown(1)
    assert read_all(sock) == answer
    assert gate.trail.wait_for(Closed)[0].bytes_down == len(answer)


def test_a_reset_far_end_resets_the_client(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """A broken far end never looks like a regular end."""

    def talk(_: FarEnd, sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER on, 0 s: close() resets

    internet.host("good.test", GOOD, {9000: far_end(talk)})
    gate = egress(policy("allow good.test:9000"))
    sock = gate.dial("good.test", 9000)
    sock.sendall(b"many bytes\n")
    assert was_reset(sock)
    assert gate.trail.wait_for(Closed)[0].why is Why.UPSTREAM_GONE


def test_stuck_readers_keep_no_one_else_waiting(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """More stuck bulk transfers than there are pipes leave room for another one to arrive whole."""
    block = bytes(range(256)) * 4096

    def talk(_: FarEnd, sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(block * 16)

    internet.host("good.test", GOOD, {9000: far_end(talk)})
    gate = egress(policy("allow good.test:9000"))
    stuck = [gate.dial("good.test", 9000) for _ in range(8)]
    for sock in stuck:
        sock.sendall(b"\0")
        assert len(sock.recv(1000)) > 0
    sock = gate.dial("good.test", 9000)
    sock.sendall(b"\0")
    assert read_all(sock) == block * 16
    sock.close()
    for each in stuck:
        read_all(each)
        each.close()
    assert {event.bytes_down for event in gate.trail.wait_for(Closed, 9)} == {16 * len(block)}


def test_http_inside_a_connect_is_read(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """Plain HTTP inside a CONNECT to port 80 is judged request by request, also by the name of the CONNECT."""

    def talk(there: FarEnd, sock: socket.socket) -> None:
        there.heard.append(read_until(sock, b"\r\n\r\n"))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        read_all(sock)

    there = far_end(talk)
    internet.host("good.test", GOOD, {80: there})
    gate = egress(policy("allow good.test", "allow other.test"))
    sock = gate.dial_proxy()
    sock.sendall(connect(b"good.test:80"))
    read_until(sock, b"\r\n\r\n")
    sock.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
    read_until(sock, b"ok")
    sock.sendall(b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
    assert sock.recv(12) == b"HTTP/1.1 403"
    assert len(there.heard) == there.accepted == 1
    first, second = gate.trail.wait_for(Request, 2)
    assert [claim.source for claim in first.claims] == [Source.CONNECT, Source.HTTP_HOST]
    assert second.decision.reason is Reason.NAME_MISMATCH


def test_a_client_that_only_listens_is_served(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """A client that ends its own direction at once still hears what the far end has to say."""

    def talk(_: FarEnd, sock: socket.socket) -> None:
        sock.sendall(b"220 hello\r\n")

    internet.host("good.test", GOOD, {25: far_end(talk)})
    gate = egress(policy("allow good.test:25"))
    sock = gate.dial("good.test", 25)
    sock.shutdown(1)
    assert read_all(sock) == b"220 hello\r\n"


def test_a_far_end_that_goes_on_is_heard_by_a_silent_client(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the far end speaks the connection lasts as long as it does, and ends when both have been silent."""
    monkeypatch.setattr(connection, "IDLE_S", 2.0)
    pause = threading.Event()

    def talk(_: FarEnd, sock: socket.socket) -> None:
        for _tick in range(6):
            sock.sendall(b"tick")
            pause.wait(0.5)
        sock.recv(1)

    internet.host("good.test", GOOD, {25: far_end(talk)})
    gate = egress(policy("allow good.test:25"))
    sock = gate.dial("good.test", 25)
    assert was_reset(sock)
    (closed,) = gate.trail.wait_for(Closed)
    assert (closed.why, closed.bytes_down) == (Why.IDLE, 24)


def test_a_tunnel_that_carries_nothing_ends(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tunnel without a byte in either direction is reset after its time, and on record as idle."""
    monkeypatch.setattr(server, "IDLE_CHECK_S", 0.05)
    internet.host("good.test", GOOD, {5432: far_end(echo)})
    gate = egress(policy("allow good.test:5432"))
    sock = gate.dial("good.test", 5432)
    sock.sendall(b"\0\1\2\3\4")
    assert sock.recv(5) == b"\0\1\2\3\4"
    monkeypatch.setattr(relay, "IDLE_S", 0.1)
    assert was_reset(sock)
    (closed,) = gate.trail.wait_for(Closed)
    assert closed.why is Why.IDLE
    assert (closed.bytes_up, closed.bytes_down) == (5, 5)
