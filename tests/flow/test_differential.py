"""What enforcement does, what DNS says and what is on record is what the slow reference decides."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from sandhold.egress import answers
from sandhold.model.cell_addresses import GATEWAY_IPV4, GATEWAY_IPV6, SYNTHETIC_IPV4, SYNTHETIC_IPV6
from sandhold.model.destination import Destination, DomainName, HostService, Source
from sandhold.model.event import Connection, Lookup, Request
from sandhold.model.rule import Generation
from sandhold.policy.index import PolicyIndex
from tests.simulators import EgressSimulation, FarEnd, Internet, echo, read_all
from tests.unit.policy import reference
from tests.unit.policy.strategies import NOW, destinations, policies, raw_addresses
from tests.unit.wire import peers

if TYPE_CHECKING:
    import socket

    from sandhold.egress.certificates import Authority
    from sandhold.model.decision import Decision
    from sandhold.model.rule import Policy

    Address = IPv4Address | IPv6Address

SANDBOX = "mine"
CELLS_OWN = (SYNTHETIC_IPV4, SYNTHETIC_IPV6)
OPAQUE = b"\0opaque"


def is_dialled_as_it_is(address: Address) -> bool:
    """Whether a program inside can head for this address: those inside the cell mean something else."""
    return address not in (GATEWAY_IPV4, GATEWAY_IPV6) and not any(address in network for network in CELLS_OWN)


EXAMPLES = (
    policies,
    st.lists(destinations, min_size=1, max_size=5),
    st.lists(raw_addresses.filter(is_dialled_as_it_is), min_size=5, max_size=5),
)


@given(*EXAMPLES)
@settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_enforcement_dns_and_log_agree(
    ours: Authority, policy: Policy, targets: list[Destination], resolved: list[Address]
) -> None:
    """One policy gives one answer: a connection passes, a lookup is allowed and the record says so, or none of it."""
    assert_agreement(ours, policy, targets, resolved)


def assert_agreement(ours: Authority, policy: Policy, targets: list[Destination], resolved: list[Address]) -> None:
    """Try every target through egress under a policy, a name having the address of `resolved` in its place."""
    policy = replace(policy, generation=Generation(1))
    far_end = FarEnd(echo)
    internet = Internet()
    try:
        with (
            pytest.MonkeyPatch.context() as moving,
            EgressSimulation(PolicyIndex(policy, SANDBOX), ours, internet) as egress,
        ):
            moving.setattr(answers, "KEPT_S", 0.0)  # a name moves between two targets
            egress.clock = lambda: NOW
            for number, target in enumerate(targets):
                if isinstance(target.host, DomainName | HostService) or is_dialled_as_it_is(target.host):
                    _try(egress, internet, far_end, policy, target, resolved[number])
            _check_lookups(egress, policy)
    finally:
        far_end.close()


def _try(
    egress: EgressSimulation,
    internet: Internet,
    far_end: FarEnd,
    policy: Policy,
    target: Destination,
    address: Address,
) -> None:
    named = Destination(target.host, target.port, _source(target))
    match target.host:
        case DomainName(name):
            internet.names[name] = (address,)
            place, dialled = address, name
            expected = reference.decide_address(policy, SANDBOX, named, address, NOW)
        case HostService():
            place, dialled = ip_address("127.0.0.1"), "host.docker.internal"
            expected = reference.decide(policy, SANDBOX, named, NOW)
        case IPv4Address() | IPv6Address():
            place, dialled = target.host, str(target.host)
            expected = reference.decide(policy, SANDBOX, named, NOW)
    internet.places[str(place), target.port] = far_end
    internet.dials.clear()
    before = len(egress.trail.of(Connection)) + len(egress.trail.of(Request))
    with egress.dial(dialled, target.port) as sock:
        _speak(sock, target)
    assert bool(internet.dials) == expected.is_allowed, f"{target} at {address}: {expected}, dialled {internet.dials}"
    event("allowed" if expected.is_allowed else f"denied: {expected.reason}")
    _check_record(egress, before, expected)


def _source(target: Destination) -> Source:
    return Source.ADDRESS if isinstance(target.host, IPv4Address | IPv6Address) else Source.DNS


def _speak(sock: socket.socket, target: Destination) -> None:
    """Say what suits the port, and read to the end."""
    host = "localhost" if isinstance(target.host, HostService) else str(target.host)
    authority = f"[{host}]" if ":" in host else host
    with suppress(OSError):
        if target.port == 80:
            sock.sendall(f"GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n".encode())
        elif target.port == 443:
            is_address = _source(target) is Source.ADDRESS
            names = b"" if is_address else peers.server_name(host.encode())
            sock.sendall(peers.records(peers.handshake(peers.hello_body(names))))
        else:
            sock.sendall(OPAQUE)
        sock.shutdown(1)
        read_all(sock)


def _check_record(egress: EgressSimulation, before: int, expected: Decision) -> None:
    """The newest decision on record is the one that was expected, with its rule or reason."""
    recorded = [each for each in egress.trail.events if isinstance(each, Connection | Request)][before:]
    assert recorded, "a connection without a record"
    assert recorded[-1].decision == expected
    assert all(each.decision.is_allowed for each in recorded[:-1]) or not expected.is_allowed


def _check_lookups(egress: EgressSimulation, policy: Policy) -> None:
    for lookup in egress.trail.of(Lookup):
        host = HostService() if lookup.name == "host.docker.internal" else DomainName(lookup.name)
        assert lookup.decision == reference.decide_any_port(policy, SANDBOX, host, NOW), lookup.name
