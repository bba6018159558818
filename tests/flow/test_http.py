"""Plain HTTP/1: each request decided again, recorded, forwarded with a head of ours and its own body."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from sandhold.egress import relay
from sandhold.model.decision import Reason
from sandhold.model.destination import Source
from sandhold.model.event import Closed, Connection, Established, Request, Via, Why
from tests.simulators import FarEnd, Internet, policy, read_all, read_until, was_reset

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tests.flow.conftest import MakeFarEnd, StartEgress

GOOD = "203.0.113.7"
OTHER = "203.0.113.8"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answering(*answers: bytes) -> Callable[[FarEnd, socket.socket], None]:
    """A server that reads one head at a time and gives the next answer; the last one again and again."""

    def talk(far_end: FarEnd, sock: socket.socket) -> None:
        left = list(answers)
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                data = sock.recv(1)
                if not data:
                    return
                head += data
            far_end.heard.append(head)
            sock.sendall(left.pop(0) if len(left) > 1 else left[0])

    return talk


def test_requests_share_a_connection_and_each_is_decided(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """Two requests on one connection are two decisions, two answers and one connection to the far end."""
    there = far_end(answering(OK))
    internet.host("good.test", GOOD, {80: there})
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    for path in (b"/one?secret=1", b"/two"):
        sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: good.test\r\nProxy-Authorization: x\r\n\r\n")
        assert read_until(sock, b"ok").startswith(b"HTTP/1.1 200 OK\r\n")
    sock.close()
    gate.trail.wait_for(Closed, 3)
    assert there.accepted == 1
    assert internet.lookups == ["good.test"]
    assert [request.path for request in gate.trail.of(Request)] == ["/one", "/two"]
    assert len(gate.trail.of(Connection)) == 1
    assert [established.status for established in gate.trail.wait_for(Established, 2)] == [200, 200]
    assert b"secret=1" in there.heard[0]
    assert all(b"Proxy-Authorization" not in head for head in there.heard)


def test_a_synthetic_address_is_sent_on_as_its_name(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """A request for an address of the cell's own names the host behind it at the far end, also to a proxy."""
    there = far_end(answering(OK))
    internet.host("good.test", GOOD, {80: there})
    gate = egress(policy("allow good.test"))
    address = str(gate.resolve("good.test")).encode()
    for sock, target in ((gate.dial("good.test", 80), b"/"), (gate.dial_proxy(), b"http://" + address + b"/")):
        sock.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: " + address + b"\r\n\r\n")
        assert read_until(sock, b"ok").startswith(b"HTTP/1.1 200 OK\r\n")
    assert not any(address in head for head in there.heard)
    assert [head.split(b"\r\n")[1] for head in there.heard] == [b"Host: good.test", b"Host: good.test"]


def test_a_second_host_on_the_same_connection_is_denied(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """A later request for another host is judged by that host, refused with a 403, and ends the connection."""
    there = far_end(answering(OK))
    internet.host("good.test", GOOD, {80: there})
    gate = egress(policy("allow good.test", "allow other.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
    read_until(sock, b"ok")
    sock.sendall(b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\nGET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
    sock.shutdown(1)
    answer = read_all(sock)
    assert len(there.heard) == 1
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    closed = gate.trail.wait_for(Closed, 3)
    assert [request.decision.reason for request in gate.trail.of(Request)] == [Reason.RULE, Reason.NO_RULE]
    assert [event.why for event in closed] == [Why.DONE, Why.REFUSED, Why.REFUSED]


DENIED = {
    "a host that no rule allows": (b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", 403, Reason.NO_RULE),
    "an allowed host that is not the one that was opened": (
        b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n",
        403,
        Reason.NAME_MISMATCH,
    ),
    "the port of another service": (b"GET / HTTP/1.1\r\nHost: good.test:8080\r\n\r\n", 403, Reason.NO_RULE),
    "the gateway by its name": (b"GET / HTTP/1.1\r\nHost: gateway.sbx.internal\r\n\r\n", 403, Reason.PROXY_SELF),
    "CONNECT where there is no proxy": (
        b"CONNECT good.test:80 HTTP/1.1\r\nHost: good.test:80\r\n\r\n",
        403,
        Reason.NO_PROTOCOL,
    ),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: good.test\r\nHost: evil.test\r\n\r\n", 400, Reason.MALFORMED),
    "a length and chunks": (
        b"POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        Reason.MALFORMED,
    ),
}


@pytest.mark.parametrize(("request_bytes", "status", "reason"), DENIED.values(), ids=DENIED.keys())
def test_denied_requests_never_reach_a_far_end(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, request_bytes: bytes, status: int, reason: Reason
) -> None:
    """A request that is denied or refused is answered here, and nothing is looked up or dialled for it."""
    there = far_end(answering(OK))
    internet.host("good.test", GOOD, {80: there, 8080: there})
    gate = egress(policy("allow good.test:80", "allow other.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(request_bytes)
    sock.shutdown(1)
    answer = read_all(sock)
    assert there.accepted == 0
    assert internet.is_untouched
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert gate.trail.wait_for(Connection)[0].decision.reason is reason


def test_a_proxy_client_may_name_another_host_each_time(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """Absolute-form requests on one connection go each to the far end of its own host."""
    one, two = far_end(answering(OK)), far_end(answering(OK))
    internet.host("good.test", GOOD, {80: one})
    internet.host("other.test", OTHER, {8080: two})
    gate = egress(policy("allow good.test", "allow other.test:8080"))
    sock = gate.dial_proxy()
    for target in (b"good.test", b"other.test:8080"):
        sock.sendall(b"GET http://" + target + b"/p HTTP/1.1\r\nHost: " + target + b"\r\n\r\n")
        read_until(sock, b"ok")
    sock.close()
    gate.trail.wait_for(Closed, 3)
    assert one.heard[0].startswith(b"GET /p HTTP/1.1\r\nHost: good.test\r\n")
    assert two.heard[0].startswith(b"GET /p HTTP/1.1\r\nHost: other.test:8080\r\n")
    assert {request.via for request in gate.trail.of(Request)} == {Via.PROXY}
    assert gate.trail.of(Request)[0].claims[0].source is Source.HTTP_HOST


BODIES = {
    "a length": b"Content-Length: 11\r\n\r\nhello world",
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("message", BODIES.values(), ids=BODIES.keys())
def test_bodies_are_carried_as_they_are_both_ways(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, message: bytes
) -> None:
    """A body with an end of its own arrives byte for byte, and another request may follow it."""
    body = message.partition(b"\r\n\r\n")[2]

    def talk(there: FarEnd, sock: socket.socket) -> None:
        for _ in range(2):
            there.heard.append(read_until(sock, b"\r\n\r\n"))
            there.heard.append(read_until(sock, body))
            sock.sendall(b"HTTP/1.1 201 Created\r\n" + message)

    there = far_end(talk)
    internet.host("good.test", GOOD, {80: there})
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    for _ in range(2):
        sock.sendall(b"PUT / HTTP/1.1\r\nHost: good.test\r\n" + message)
        assert read_until(sock, body).startswith(b"HTTP/1.1 201 Created\r\n")
    sock.close()
    gate.trail.wait_for(Closed, 3)
    assert there.accepted == 1
    assert there.heard[1] == body


def test_a_client_may_wait_to_be_asked_for_its_body(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """`Expect: 100-continue` is answered by the far end, before the body is sent."""

    def talk(_: FarEnd, sock: socket.socket) -> None:
        read_until(sock, b"\r\n\r\n")
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert sock.recv(4) == b"body"
        sock.sendall(OK)

    internet.host("good.test", GOOD, {80: far_end(talk)})
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(b"PUT / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    sock.sendall(b"body")
    assert read_until(sock, b"ok").startswith(b"HTTP/1.1 200 OK\r\n")


def test_an_upgrade_becomes_a_tunnel(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """After a 101 that was asked for, bytes go both ways as they are."""

    def talk(_: FarEnd, sock: socket.socket) -> None:
        read_until(sock, b"\r\n\r\n")
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhi")
        sock.sendall(sock.recv(4))

    internet.host("good.test", GOOD, {80: far_end(talk)})
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    assert b"101" in read_until(sock, b"\r\n\r\nhi")
    sock.sendall(b"\x00\xff\x00\xff")
    assert read_all(sock) == b"\x00\xff\x00\xff"
    assert gate.trail.wait_for(Established)[0].status == 101


def test_an_upgrade_that_carries_nothing_ends(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a connection was upgraded to is reset after its time without a byte, and on record as idle, as a tunnel."""
    monkeypatch.setattr(relay, "IDLE_S", 0.2)

    def talk(_: FarEnd, sock: socket.socket) -> None:
        read_until(sock, b"\r\n\r\n")
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        while data := sock.recv(4):
            sock.sendall(data)

    internet.host("good.test", GOOD, {80: far_end(talk)})
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    assert b"101" in read_until(sock, b"\r\n\r\n")
    sock.sendall(b"ping")
    assert sock.recv(4) == b"ping"
    assert was_reset(sock)
    assert {closed.why for closed in gate.trail.wait_for(Closed, 2)} == {Why.IDLE}


BROKEN = {
    "it changes the protocol unasked": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "it floods with interim answers": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20,
    "it does not speak HTTP": b"hello there, this is no HTTP at all\r\n\r\n",
    "it says two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_a_far_end_that_breaks_http_is_a_502(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, answer: bytes
) -> None:
    """What is no response never reaches the sandbox as one."""
    internet.host("good.test", GOOD, {80: far_end(answering(answer))})
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
    sock.shutdown(1)
    seen = read_all(sock)
    assert b"HTTP/1.1 101" not in seen
    assert b"HTTP/1.1 200" not in seen
    assert b"HTTP/1.1 502 " in seen
    assert {event.why for event in gate.trail.wait_for(Closed, 2)} == {Why.UPSTREAM_GONE}


def test_a_response_without_an_end_ends_with_its_connection(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """A body that ends with the far end's connection ends with the sandbox's too."""

    def talk(_: FarEnd, sock: socket.socket) -> None:
        read_until(sock, b"\r\n\r\n")
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nsome")
        sock.sendall(b" more")

    internet.host("good.test", GOOD, {80: far_end(talk)})
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
    answer = read_all(sock)
    assert answer.endswith(b"\r\n\r\nsome more")
    assert b"\r\nConnection: close\r\n" in answer


def test_a_cut_response_is_never_whole(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """A far end that breaks off in the middle of a body resets the sandbox's connection."""

    def talk(_: FarEnd, sock: socket.socket) -> None:
        read_until(sock, b"\r\n\r\n")
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    internet.host("good.test", GOOD, {80: far_end(talk)})
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        read_all(sock)
    assert gate.trail.wait_for(Closed, 2)[0].why is Why.UPSTREAM_GONE


def test_a_malformed_body_is_a_denial(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """A chunk that two readers could read differently never leaves, and is on record as malformed."""
    finished = threading.Event()

    def talk(there: FarEnd, sock: socket.socket) -> None:
        try:
            there.heard.append(read_all(sock))
        finally:
            finished.set()

    there = far_end(talk)
    internet.host("good.test", GOOD, {80: there})
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(b"POST / HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n")
    sock.shutdown(1)
    answer = read_all(sock)
    assert finished.wait(20)
    assert all(b"hello" not in heard for heard in there.heard)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert gate.trail.wait_for(Request, 2)[1].decision.reason is Reason.MALFORMED


def test_an_early_answer_arrives_in_spite_of_the_upload(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """A far end that answers before it has heard the whole body is heard by the client, and the connection ends."""

    def talk(_: FarEnd, sock: socket.socket) -> None:
        read_until(sock, b"\r\n\r\n")
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        read_all(sock)

    internet.host("good.test", GOOD, {80: far_end(talk)})
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(b"POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
    answer = read_until(sock, b"no")
    sock.shutdown(1)
    assert read_all(sock) == b""
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert gate.trail.wait_for(Closed, 2)[0].status == 413


def test_a_dribbled_request_and_response_are_read_as_one(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """How heads and bodies are cut into segments changes nothing, in either direction."""

    def talk(there: FarEnd, sock: socket.socket) -> None:
        there.heard.append(read_until(sock, b"\r\n\r\n"))
        for position in range(len(OK)):
            sock.sendall(OK[position : position + 1])

    there = far_end(talk)
    internet.host("good.test", GOOD, {80: there})
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    for byte in b"GET /dribble HTTP/1.1\r\nHost: good.test\r\n\r\n":
        sock.sendall(bytes([byte]))
    assert read_until(sock, b"ok").startswith(b"HTTP/1.1 200 OK\r\n")
    assert there.heard == [b"GET /dribble HTTP/1.1\r\nHost: good.test\r\n\r\n"]


def test_a_stale_far_end_is_dialled_anew(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """A far end that closed its connection between two requests is dialled again, under the same decision."""
    closed = threading.Event()

    def talk(there: FarEnd, sock: socket.socket) -> None:
        there.heard.append(read_until(sock, b"\r\n\r\n"))
        sock.sendall(OK)
        sock.shutdown(1)
        closed.set()

    there = far_end(talk)
    internet.host("good.test", GOOD, {80: there})
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    for _ in range(2):
        closed.clear()
        sock.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
        assert read_until(sock, b"ok")
        assert closed.wait(20)
    assert there.accepted == 2


def test_plain_http2_is_not_spoken(egress: StartEgress, internet: Internet) -> None:
    """HTTP/2 with prior knowledge, in which requests would go unread, is reset on port 80."""
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert was_reset(sock)
    assert internet.is_untouched
    assert gate.trail.wait_for(Connection)[0].decision.reason is Reason.NO_PROTOCOL


def test_a_far_end_that_leaves_during_an_upload_is_a_502(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """A client in the middle of its body still reads why it came to nothing."""

    def talk(_: FarEnd, sock: socket.socket) -> None:
        read_until(sock, b"\r\n\r\n")

    internet.host("good.test", GOOD, {80: far_end(talk)})
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(b"POST / HTTP/1.1\r\nHost: good.test\r\nContent-Length: 1000000\r\n\r\n")
    assert sock.recv(12) == b"HTTP/1.1 502"
    sock.shutdown(1)
    assert {event.why for event in gate.trail.wait_for(Closed, 2)} == {Why.UPSTREAM_GONE}
