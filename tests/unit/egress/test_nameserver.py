"""The resolver's answers, message by message, without a socket."""

from __future__ import annotations

import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode
import dns.reversename
import pytest

from sandhold.egress import lookups
from sandhold.egress.lookups import LOOKUPS_BURST, QUERY_BYTES_MAX, Lookups
from sandhold.model.decision import Reason
from sandhold.model.destination import DomainName, HostService
from sandhold.model.event import Lookup
from sandhold.wire.dns_question import Query, Transport
from tests.nameserving import Desk

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A gateway under which `allowed.test` is allowed and everything else is not."""
    with Desk() as made:
        yield made


def answer(lookups_of: Lookups, name: str, query_type: str = "A") -> dns.message.Message | None:
    """What is answered without asking outside, None when outside would be asked."""
    query = lookups_of.read(dns.message.make_query(name, query_type).to_wire(), Transport.UDP)
    assert query is not None
    reply = lookups_of.answer_inside(query) if isinstance(query, Query) else query
    return None if reply is None else dns.message.from_wire(reply)


def texts(message: dns.message.Message | None) -> list[str]:
    """The data of every record of the answer."""
    assert message is not None
    return [str(item) for rrset in message.answer for item in rrset]


ADDRESSES = {
    "an allowed name": ("allowed.test", "A", "198.18.0.1"),
    "a denied name, alike": ("denied.test", "A", "198.18.0.1"),
    "IPv6": ("denied.test", "AAAA", "fd5b:78:1::1"),
    "the user's machine": ("host.docker.internal", "A", "198.18.0.1"),
    "the user's machine, another spelling": ("gateway.docker.internal", "AAAA", "fd5b:78:1::1"),
    "the user's machine, ours": ("Host.SBX.internal", "A", "198.18.0.1"),
    "the gateway": ("gateway.sbx.internal", "A", "10.200.0.1"),
    "the gateway, IPv6": ("gateway.sbx.internal", "AAAA", "fd5b:78::1"),
    "localhost is the sandbox's own": ("localhost", "A", "127.0.0.1"),
    "so is what is below it": ("app.localhost", "AAAA", "::1"),
}


@pytest.mark.parametrize(("name", "query_type", "expected"), ADDRESSES.values(), ids=ADDRESSES)
def test_names_that_can_exist_have_an_address(desk: Desk, name: str, query_type: str, expected: str) -> None:
    """Every name has its address at once, without a word to anybody."""
    assert texts(answer(Lookups(desk.gateway), name, query_type)) == [expected]


def test_the_address_stands_for_the_name(desk: Desk) -> None:
    """The table that connections are named by has the very host, however it was spelt."""
    lookups_of = Lookups(desk.gateway)
    answer(lookups_of, "ALLOWED.test")
    answer(lookups_of, "host.sbx.internal")

    assert desk.gateway.names.name_of(IPv4Address("198.18.0.1")) == DomainName("allowed.test")
    assert desk.gateway.names.name_of(IPv4Address("198.18.0.2")) == HostService()


CODES = {
    "one label": ("intranet", "A", dns.rcode.NXDOMAIN),
    "one label, another type": ("intranet", "TXT", dns.rcode.NXDOMAIN),
    "an address": ("203.0.113.9", "A", dns.rcode.NXDOMAIN),
    "a number at the end": ("example.1", "A", dns.rcode.NXDOMAIN),
    "a space": ("a\\032b.test", "A", dns.rcode.NXDOMAIN),
    "a dot in a label": ("a\\.b.test", "A", dns.rcode.NXDOMAIN),
    "a byte beyond ASCII": ("a\\233.test", "TXT", dns.rcode.NXDOMAIN),
    "the root": (".", "NS", dns.rcode.REFUSED),
    "everything about a name": ("allowed.test", "ANY", dns.rcode.REFUSED),
    "a zone": ("allowed.test", "AXFR", dns.rcode.REFUSED),
    "the reverse of an address of the internet": ("9.113.0.203.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN),
    "the reverse of an address not given yet": ("9.0.18.198.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN),
    "a reverse name of the wrong length": ("1.2.ip6.arpa", "PTR", dns.rcode.NXDOMAIN),
    "a reverse name that is no number": ("x.0.18.198.in-addr.arpa", "PTR", dns.rcode.NXDOMAIN),
}


@pytest.mark.parametrize(("name", "query_type", "code"), CODES.values(), ids=CODES)
def test_what_cannot_be_answered_is_not_asked_outside(desk: Desk, name: str, query_type: str, code: int) -> None:
    """The answer is a code, made here, with nothing in it."""
    message = answer(Lookups(desk.gateway), name, query_type)

    assert message is not None
    assert (message.rcode(), message.answer, message.authority) == (code, [], [])


EMPTY = {
    "a denied name": ("denied.test", "TXT"),
    "a denied name below an allowed one": ("below.allowed.test", "MX"),
    "HTTPS of an allowed name": ("allowed.test", "HTTPS"),
    "SVCB of an allowed name": ("allowed.test", "SVCB"),
    "a type nobody knows": ("allowed.test", "TYPE65280"),
    "NULL, a favourite of tunnels": ("allowed.test", "NULL"),
    "the user's machine": ("host.docker.internal", "TXT"),
    "the gateway": ("gateway.sbx.internal", "TXT"),
    "below localhost": ("app.localhost", "TXT"),
    "a reverse zone": ("113.0.203.in-addr.arpa", "SOA"),
}


@pytest.mark.parametrize("posture", ["balanced", "allow-all"])
@pytest.mark.parametrize(("name", "query_type"), EMPTY.values(), ids=EMPTY)
def test_everything_else_is_empty(posture: str, name: str, query_type: str) -> None:
    """Nothing is asked outside, whatever the posture, and the answer says that there is no such record."""
    with Desk(posture) as desk:
        message = answer(Lookups(desk.gateway), name, query_type)

    if posture == "allow-all" and "test" in name and query_type in {"TXT", "MX"}:
        assert message is None  # then these two are allowed
        return
    assert message is not None
    assert (message.rcode(), message.answer, message.authority) == (dns.rcode.NOERROR, [], [])


def test_only_some_types_of_an_allowed_name_are_asked_outside(desk: Desk) -> None:
    """What programs need (MX, TXT, SRV, ...) goes out, and only when the name is allowed on some port."""
    lookups_of = Lookups(desk.gateway)

    for query_type in ("MX", "TXT", "SRV", "NS", "CAA", "SOA", "CNAME"):
        assert answer(lookups_of, "denied.test", query_type) is not None
        assert answer(lookups_of, "allowed.test", query_type) is None
        assert answer(lookups_of, "ssh-only.test", query_type) is None
        assert answer(lookups_of, "port-80.test", query_type) is None


def test_a_name_allowed_on_any_port_is_on_record_as_allowed(desk: Desk) -> None:
    """A lookup has no port: its record says what a connection to the right port will be told."""
    lookups_of = Lookups(desk.gateway)
    for name in ("denied.test", "ssh-only.test", "port-80.test", "host.docker.internal"):
        assert texts(answer(lookups_of, name, "A"))

    assert [(record.name, record.decision.is_allowed) for record in desk.records] == [
        ("denied.test", False),
        ("ssh-only.test", True),
        ("port-80.test", True),
        ("host.docker.internal", True),
    ]


def test_addresses_of_the_cell_have_names(desk: Desk) -> None:
    """PTR answers with the name an address stands for, both families, and the gateway's own."""
    lookups_of = Lookups(desk.gateway)
    (ipv4,), (ipv6,) = (texts(answer(lookups_of, "denied.test", kind)) for kind in ("A", "AAAA"))

    for address, name in ((ipv4, "denied.test."), (ipv6, "denied.test."), ("10.200.0.1", "gateway.sbx.internal.")):
        assert texts(answer(lookups_of, str(dns.reversename.from_address(address)), "PTR")) == [name]
    assert {record.query_type for record in desk.records} == {"A", "AAAA"}


def test_each_name_and_type_is_recorded_once(desk: Desk) -> None:
    """A program that asks again and again fills no disk; another type or name is another record."""
    lookups_of = Lookups(desk.gateway)
    for _ in range(5):
        for name, query_type in (("allowed.test", "A"), ("ALLOWED.test", "A"), ("denied.test", "AAAA"), ("x", "A")):
            answer(lookups_of, name, query_type)
        answer(lookups_of, "denied.test", "TXT")

    assert all(not record.asked_outside for record in desk.records)
    assert [(record.name, record.query_type, record.decision.because) for record in desk.records] == [
        ("allowed.test", "A", "local:allowed"),
        ("denied.test", "AAAA", "no-matching-rule"),
        ("x", "A", "malformed"),
        ("denied.test", "TXT", "no-matching-rule"),
    ]


def test_a_changed_decision_is_recorded_again(desk: Desk) -> None:
    """After `--now` the record says what holds since."""
    lookups_of = Lookups(desk.gateway)
    answer(lookups_of, "allowed.test")
    desk.deny_everything()
    answer(lookups_of, "allowed.test")

    assert [record.decision.is_allowed for record in desk.records] == [True, False]


def test_what_is_remembered_as_recorded_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit the oldest is forgotten, and recorded again when it is asked again; the newest is not."""
    monkeypatch.setattr(lookups, "RECORDED_MAX", 2)
    lookups_of = Lookups(desk.gateway)
    for name in ("a.test", "b.test", "c.test", "c.test", "a.test"):
        answer(lookups_of, name)

    assert [record.name for record in desk.records] == ["a.test", "b.test", "c.test", "a.test"]


def test_a_flood_is_refused_and_recorded_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit the answer is REFUSED, no name is taken up, and one record a second says so."""
    monkeypatch.setattr(
        lookups, "LOOKUPS_RATE", 0.0
    )  # a busy machine would take so long that all of them are within it
    began = time.monotonic()
    lookups_of = Lookups(desk.gateway)
    codes = []
    for number in range(LOOKUPS_BURST + 500):
        message = answer(lookups_of, f"n{number}.denied.test")
        assert message is not None
        codes.append(message.rcode())
    limited = [record for record in desk.records if record.decision.reason is Reason.LOOKUP_LIMIT]

    assert len(desk.gateway.names) == LOOKUPS_BURST
    assert codes == [dns.rcode.NOERROR] * LOOKUPS_BURST + [dns.rcode.REFUSED] * 500
    assert 1 <= len(limited) <= 1 + (time.monotonic() - began)
    assert limited[0].detail == "too many lookups at once"


def test_a_full_table_refuses_new_names(desk: Desk) -> None:
    """When every address stands for a name, new names are REFUSED and known ones are answered."""
    desk.limit_names(1)
    lookups_of = Lookups(desk.gateway)
    assert texts(answer(lookups_of, "first.test")) == ["198.18.0.1"]
    refused = answer(lookups_of, "second.test")

    assert refused is not None
    assert refused.rcode() == dns.rcode.REFUSED
    assert texts(answer(lookups_of, "first.test")) == ["198.18.0.1"]
    assert desk.records[-1].detail == "too many names in one session"


MALFORMED = {
    "nothing": b"",
    "eleven bytes": bytes(11),
    "an answer": b"\x12\x34\x80\x00\x00\x01" + bytes(6) + b"\x01a\x04test\x00\x00\x01\x00\x01",
    "two questions": b"\x12\x34\x01\x00\x00\x02" + bytes(6) + b"\x01a\x04test\x00\x00\x01\x00\x01" * 2,
    "a pointer to itself": b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\xc0\x0c\x00\x01\x00\x01",
    "a name that runs out": b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x3fabc",
    "another operation": b"\x12\x34\x28\x00\x00\x01" + bytes(6) + b"\x01a\x04test\x00\x00\x01\x00\x01",
    "another class": b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x01a\x04test\x00\x00\x01\x00\x03",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_question_gets_an_error_or_silence(desk: Desk, data: bytes) -> None:
    """Broken messages are answered with a code or not at all, and never kill the resolver."""
    lookups_of = Lookups(desk.gateway)
    reply = lookups_of.read(data, Transport.UDP)

    lookups_of.read(data, Transport.UDP)

    assert not isinstance(reply, Query)
    assert reply is None or (reply[2] & 0x80 and reply[3] & 0x0F)
    assert [record.decision.reason for record in desk.records] == [Reason.MALFORMED]
    assert texts(answer(lookups_of, "allowed.test")) == ["198.18.0.1"]


def test_a_message_larger_than_any_question_is_not_even_read(desk: Desk) -> None:
    """Reading costs time, so a giant costs none."""
    giant = dns.message.make_query("allowed.test", "A").to_wire() + bytes(QUERY_BYTES_MAX)

    assert Lookups(desk.gateway).read(giant, Transport.TCP) is None
    assert [record.detail for record in desk.records] == ["larger than any question"]


def test_records_are_lookups(desk: Desk) -> None:
    """What goes on record is a lookup with the canonical name."""
    answer(Lookups(desk.gateway), "DENIED.test")
    (record,) = desk.records

    assert isinstance(record, Lookup)
    assert record.name == "denied.test"
