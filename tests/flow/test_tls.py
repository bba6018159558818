"""TLS connections: passed through unread when every name agrees and is allowed, refused legibly otherwise."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from sandhold.model.decision import Reason
from sandhold.model.destination import DomainName, Source
from sandhold.model.event import Closed, Connection, Established, Via, Why
from tests.simulators import Internet, policy, read_all, tls_echo, was_reset

if TYPE_CHECKING:
    from sandhold.egress.certificates import Authority
    from tests.flow.conftest import MakeFarEnd, StartEgress

GOOD = "203.0.113.7"


def test_an_allowed_name_is_passed_through_end_to_end(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, worlds: Authority
) -> None:
    """An allowed TLS connection reaches the far end's own certificate, and is on record from decision to end."""
    internet.host("good.test", GOOD, {443: far_end(tls_echo(worlds, "good.test"))})
    gate = egress(policy("allow good.test:443"))
    tls = gate.tls(gate.dial("good.test", 443), "good.test", [worlds.certificate_pem.decode()])
    tls.sendall(b"hello")
    assert tls.recv(5) == b"hello"
    tls.close()
    (closed,) = gate.trail.wait_for(Closed)
    (connection,) = gate.trail.of(Connection)
    (established,) = gate.trail.wait_for(Established)
    assert connection.decision.is_allowed
    assert connection.via is Via.TRANSPARENT
    assert [claim.source for claim in connection.claims] == [Source.DNS, Source.SNI]
    assert str(established.dialled and established.dialled[0]) == GOOD
    assert established.status == closed.status == 200
    assert closed.why is Why.DONE
    assert closed.bytes_up > 5
    assert closed.bytes_down > 5


def test_a_denied_name_is_answered_over_tls_and_nothing_leaves(
    egress: StartEgress, internet: Internet, ours: Authority
) -> None:
    """A denied name is neither looked up nor dialled; the client reads a 403 over TLS in that name."""
    gate = egress(policy("allow good.test:443"))
    tls = gate.tls(gate.dial("evil.test", 443), "evil.test", [ours.certificate_pem.decode()])
    tls.sendall(b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n")
    answer = read_all(tls)
    assert internet.is_untouched
    assert answer.startswith(b"HTTP/1.1 403 ")
    (closed,) = gate.trail.wait_for(Closed)
    (connection,) = gate.trail.of(Connection)
    assert connection.decision.reason is Reason.NO_RULE
    assert connection.event.encode() in answer
    assert closed.why is Why.REFUSED


DENIED = {
    "no server name to a host that was opened by name": ("good.test", None, Reason.SNI_MISSING),
    "a server name that is allowed, but not the one that was opened": ("good.test", "other.test", Reason.NAME_MISMATCH),
    "an allowed connection, a denied server name": ("good.test", "evil.test", Reason.NO_RULE),
    "a denied connection, an allowed server name": ("evil.test", "good.test", Reason.NO_RULE),
    "an address without a rule of its own, an allowed server name": (GOOD, "good.test", Reason.NO_RULE),
    "a synthetic address that stands for nothing": ("198.18.99.99", "good.test", Reason.UNKNOWN_ADDRESS),
    "the gateway's own address": ("10.200.0.1", "good.test", Reason.PROXY_SELF),
}


@pytest.mark.parametrize(("dialled", "server_name", "reason"), DENIED.values(), ids=DENIED.keys())
def test_every_claimed_name_is_judged(  # noqa: PLR0917  fixtures and the case
    egress: StartEgress,
    internet: Internet,
    far_end: MakeFarEnd,
    worlds: Authority,
    dialled: str,
    server_name: str | None,
    reason: Reason,
) -> None:
    """A contradiction or a denied claim denies the connection before anything of it leaves."""
    there = far_end(tls_echo(worlds, "good.test"))
    for name in ("good.test", "other.test", "evil.test"):
        internet.host(name, GOOD, {443: there})
    gate = egress(policy("allow good.test:443", "allow other.test:443"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        gate.tls(gate.dial(dialled, 443), server_name, [worlds.certificate_pem.decode()])
    assert there.accepted == 0
    assert internet.is_untouched
    (connection,) = gate.trail.wait_for(Connection)
    assert connection.decision.reason is reason
    (closed,) = gate.trail.wait_for(Closed)
    assert closed.why is Why.REFUSED


def test_an_address_with_a_rule_needs_no_server_name(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, worlds: Authority
) -> None:
    """TLS without a server name is fine for an address that a rule on addresses allows."""
    internet.places[GOOD, 443] = far_end(tls_echo(worlds, "good.test"))
    gate = egress(policy(f"allow {GOOD}:443"))
    tls = gate.tls(gate.dial(GOOD, 443), None, [worlds.certificate_pem.decode()])
    tls.sendall(b"x")
    assert tls.recv(1) == b"x"
    assert internet.lookups == []
    assert internet.dials == [(GOOD, 443)]


def test_an_opening_byte_by_byte_is_read_as_one(
    egress: StartEgress, internet: Internet, far_end: MakeFarEnd, worlds: Authority
) -> None:
    """How a ClientHello is cut into segments changes nothing."""
    internet.host("good.test", GOOD, {443: far_end(tls_echo(worlds, "good.test"))})
    gate = egress(policy("allow good.test:443"))
    sock = gate.dial("good.test", 443)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=worlds.certificate_pem.decode())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="good.test")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    for position in range(len(hello)):
        sock.sendall(hello[position : position + 1])
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            incoming.write(sock.recv(65536))
    assert DomainName("good.test") in [claim.host for claim in gate.trail.of(Connection)[0].claims]


def test_garbage_on_the_tls_port_is_reset(egress: StartEgress, internet: Internet) -> None:
    """What is neither TLS nor HTTP on port 443 is denied even where the name is allowed."""
    gate = egress(policy("allow good.test:443"))
    sock = gate.dial("good.test", 443)
    sock.sendall(b"\x00\x01\x02 anything\n")
    assert was_reset(sock)
    assert internet.dials == []
    assert gate.trail.wait_for(Connection)[0].decision.reason is Reason.NO_PROTOCOL
