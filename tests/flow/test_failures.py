"""What the sandbox is told when an allowed destination cannot be had, and which addresses of a name are dialled."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from sandhold.egress import upstream
from sandhold.egress.answers import ADDRESSES_MAX
from sandhold.egress.host_proxy import parse_host_proxy
from sandhold.model.decision import Reason
from sandhold.model.event import Closed, Connection, Established, Why
from sandhold.model.rule import Posture
from tests.installation import wait_until
from tests.simulators import Blackhole, FarEnd, Internet, echo, policy, read_all, read_until, was_reset

if TYPE_CHECKING:
    import socket

    from sandhold.egress.certificates import Authority
    from tests.flow.conftest import MakeFarEnd, StartEgress

GOOD = "203.0.113.7"
GET = b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n"


CLOSED_ADDRESSES = {
    "the host's loopback": ["127.0.0.1"],
    "a private address": ["10.1.2.3"],
    "a public address and a private one": [GOOD, "10.1.2.3"],
    "an IPv4 address in IPv6": ["::ffff:10.1.2.3"],
    "the metadata service": ["169.254.169.254"],
    "a translated metadata service": ["64:ff9b::a9fe:a9fe"],
    "the unspecified address": ["0.0.0.0"],
}


@pytest.mark.parametrize("answers", CLOSED_ADDRESSES.values(), ids=CLOSED_ADDRESSES.keys())
@pytest.mark.parametrize("posture", [Posture.BALANCED, Posture.ALLOW_ALL])
def test_a_name_never_opens_the_floor(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, answers: list[str], posture: Posture
) -> None:
    """A name that resolves into the floor is denied as a whole, after the look-up and before any dial."""
    there = far_end(echo)
    internet.names["good.test"] = tuple(ip_address(answer) for answer in answers)
    for address in answers:
        internet.places[address, 80] = there
    gate = egress(policy("allow **", posture=posture))
    sock = gate.dial("good.test", 80)
    sock.sendall(GET)
    sock.shutdown(1)
    answer = read_all(sock)
    assert internet.dials == []
    assert there.accepted == 0
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert all(address.encode() not in answer for address in answers)
    (closed, _) = gate.trail.wait_for(Closed, 2)
    assert closed.why is Why.REFUSED


def test_a_floor_denial_is_a_second_record_of_the_connection(egress: StartEgress, internet: Internet) -> None:
    """The permission to look a name up is on record, and then that its addresses denied it."""
    internet.names["good.test"] = (ip_address("10.1.2.3"),)
    gate = egress(policy("allow good.test:22"))
    sock = gate.dial("good.test", 22)
    sock.sendall(b"SSH-2.0-x\r\n")
    assert was_reset(sock)
    assert internet.dials == []
    first, second = gate.trail.wait_for(Connection, 2)
    assert first.event == second.event
    assert first.decision.is_allowed
    assert second.decision.reason is Reason.ADDRESS_FLOOR


def test_an_address_rule_opens_what_a_name_has(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """A rule on the address itself opens a private address behind an allowed name."""
    internet.host("good.test", "10.1.2.3", {22: far_end(echo)})
    gate = egress(policy("allow good.test:22", "allow 10.1.2.3:22"))
    sock = gate.dial("good.test", 22)
    sock.sendall(b"SSH-2.0-x\r\n")
    assert sock.recv(100) == b"SSH-2.0-x\r\n"


def test_a_denied_address_is_left_out(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """Of several addresses of a name, those that a deny rule names are never dialled."""
    there = far_end(echo)
    internet.host("good.test", "203.0.113.6", {22: there})
    internet.host("good.test", GOOD, {22: there})
    gate = egress(policy("allow good.test:22", "deny 203.0.113.6"))
    sock = gate.dial("good.test", 22)
    sock.sendall(b"SSH-2.0-x\r\n")
    assert sock.recv(100) == b"SSH-2.0-x\r\n"
    assert internet.dials == [(GOOD, 22)]


def test_a_name_that_moves_into_the_floor_is_denied(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """A name that moves into the floor is denied once its answer is kept no longer; nothing there is ever dialled."""
    internet.host("good.test", GOOD, {22: far_end(echo)})
    gate = egress(policy("allow good.test:22"))
    first = gate.dial("good.test", 22)
    first.sendall(b"SSH-2.0-x\r\n")
    assert first.recv(100)
    internet.names["good.test"] = (ip_address("127.0.0.1"),)

    def is_denied() -> bool:
        again = gate.dial("good.test", 22)
        with suppress(OSError):
            again.sendall(b"SSH-2.0-x\r\n")
        try:
            return not again.recv(100)
        except ConnectionResetError:
            return True

    wait_until(is_denied, "the name is looked up anew")
    assert set(internet.dials) == {(GOOD, 22)}
    assert internet.lookups == ["good.test"] * 2
    assert gate.trail.wait_for(Connection)[-1].decision.reason is Reason.ADDRESS_FLOOR


def test_the_next_address_is_tried(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """A refused address is followed by the name's next one; what was dialled is on record."""
    internet.host("good.test", "203.0.113.6", {})
    internet.host("good.test", GOOD, {22: far_end(echo)})
    gate = egress(policy("allow good.test:22"))
    sock = gate.dial("good.test", 22)
    sock.sendall(b"SSH-2.0-x\r\n")
    assert sock.recv(100)
    (established,) = gate.trail.wait_for(Established)
    assert [str(address) for address in established.resolved] == ["203.0.113.6", GOOD]
    assert established.dialled == (ip_address(GOOD), 22)


def test_a_name_that_does_not_exist_is_a_502(egress: StartEgress, internet: Internet) -> None:
    """An allowed name without an address is answered legibly, and the end record says why."""
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(GET)
    sock.shutdown(1)
    answer = read_all(sock)
    assert internet.dials == []
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert {event.why for event in gate.trail.wait_for(Closed, 2)} == {Why.NAME_NOT_FOUND}


def test_a_refused_connection_is_a_502_over_tls_too(egress: StartEgress, internet: Internet, ours: Authority) -> None:
    """A far end that refuses is reported inside TLS, in the name that was asked for."""
    internet.host("good.test", GOOD, {})
    gate = egress(policy("allow good.test"))
    tls = gate.tls(gate.dial("good.test", 443), "good.test", [ours.certificate_pem.decode()])
    tls.sendall(b"GET / HTTP/1.1\r\nHost: good.test\r\n\r\n")
    assert tls.recv(12) == b"HTTP/1.1 502"
    tls.close()
    (closed,) = gate.trail.wait_for(Closed)
    assert (closed.status, closed.why) == (502, Why.UPSTREAM_UNREACHABLE)


def test_silence_from_the_far_end_is_a_504(
    egress: StartEgress, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection attempt that nothing answers ends in time, and is told from one that was refused."""
    monkeypatch.setattr(upstream, "CONNECT_TIMEOUT_S", 0.2)
    hole = Blackhole()
    internet.names["good.test"] = (ip_address(GOOD),)
    internet.places[GOOD, 80] = hole
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(GET)
    sock.shutdown(1)
    answer = read_all(sock)
    hole.close()
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert not gate.trail.of(Established)
    assert {event.why for event in gate.trail.wait_for(Closed, 2)} == {Why.UPSTREAM_TIMEOUT}


def test_a_resolver_that_does_not_answer_is_a_504(
    egress: StartEgress, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up that takes too long is given up, and other connections go on meanwhile."""
    monkeypatch.setattr(upstream, "RESOLVE_TIMEOUT_S", 0.2)
    internet.is_resolving.clear()
    gate = egress(policy("allow good.test"))
    sock = gate.dial("good.test", 80)
    sock.sendall(GET)
    sock.shutdown(1)
    answer = read_all(sock)
    internet.is_resolving.set()
    assert internet.dials == []
    assert answer.startswith(b"HTTP/1.1 504 ")


def corporate_proxy(far_end: FarEnd, sock: socket.socket) -> None:
    """A proxy of the host's network: opens any tunnel, to an echo."""
    far_end.heard.append(read_until(sock, b"\r\n\r\n"))
    sock.sendall(b"HTTP/1.1 200 Fine\r\n\r\n")
    echo(far_end, sock)


def test_the_hosts_proxy_gets_the_name_and_its_password(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """Behind a proxy the name goes to the proxy with the user's credentials, which nobody else ever sees."""
    proxy = far_end(corporate_proxy)
    internet.places["10.9.9.9", 3128] = proxy
    gate = egress(policy("allow good.test:22"), proxy=parse_host_proxy("http://user:secret@10.9.9.9:3128", ()))
    sock = gate.dial("good.test", 22)
    sock.sendall(b"SSH-2.0-x\r\n")
    assert sock.recv(100) == b"SSH-2.0-x\r\n"
    sock.close()
    gate.trail.wait_for(Closed)
    assert "secret" not in repr(gate.trail.events)
    assert "dXNlcjpzZWNyZXQ" not in repr(gate.trail.events)
    assert proxy.heard[0].startswith(b"CONNECT good.test:22 HTTP/1.1\r\nHost: good.test:22\r\n")
    assert b"Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n" in proxy.heard[0]
    (established,) = gate.trail.wait_for(Established)
    assert (established.dialled, established.proxy) == (None, "10.9.9.9:3128")


def test_a_denied_address_is_cut_behind_the_hosts_proxy(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """A tunnel through the host's proxy ends when every address known for its name is denied."""
    internet.places["10.9.9.9", 3128] = far_end(corporate_proxy)
    internet.host("good.test", GOOD, {})
    gate = egress(policy("allow good.test:22"), proxy=parse_host_proxy("http://10.9.9.9:3128", ()))
    sock = gate.dial("good.test", 22)
    sock.sendall(b"SSH-2.0-x\r\n")
    assert sock.recv(100) == b"SSH-2.0-x\r\n"
    assert gate.apply(policy("allow good.test:22", f"deny {GOOD}", generation=2)) == {"applied": 2, "cut": 1}
    assert was_reset(sock)


def test_the_floor_holds_in_front_of_the_hosts_proxy(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd
) -> None:
    """A name that resolves into the floor here is not handed to the proxy."""
    proxy = far_end(corporate_proxy)
    internet.places["10.9.9.9", 3128] = proxy
    internet.names["good.test"] = (ip_address("10.1.2.3"),)
    gate = egress(policy("allow good.test:22"), proxy=parse_host_proxy("http://10.9.9.9:3128", ()))
    sock = gate.dial("good.test", 22)
    sock.sendall(b"SSH-2.0-x\r\n")
    assert was_reset(sock)
    assert proxy.accepted == 0


def test_more_addresses_than_are_judged_are_none(egress: StartEgress, internet: Internet, far_end: MakeFarEnd) -> None:
    """A name with more addresses than are judged is neither dialled nor handed to the host's proxy."""
    proxy = far_end(corporate_proxy)
    internet.places["10.9.9.9", 3128] = proxy
    internet.names["good.test"] = tuple(ip_address("203.0.113.0") + number for number in range(ADDRESSES_MAX + 1))
    for through in (None, parse_host_proxy("http://10.9.9.9:3128", ())):
        gate = egress(policy("allow good.test:22"), proxy=through)
        sock = gate.dial("good.test", 22)
        sock.sendall(b"SSH-2.0-x\r\n")
        assert was_reset(sock)
        (closed,) = gate.trail.wait_for(Closed)
        assert closed.why is Why.NAME_NOT_FOUND
        assert closed.detail == f"the name has more than {ADDRESSES_MAX} addresses"
    assert internet.dials == []
