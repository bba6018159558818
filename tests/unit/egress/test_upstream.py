"""Which of the addresses behind an allowed name may be dialled."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from sandhold.egress.answers import Answers
from sandhold.egress.reactor import Reactor
from sandhold.egress.upstream import DeniedLateError, Upstream, is_own_address, look_up, vet
from sandhold.model.decision import Reason
from sandhold.model.destination import Destination, DomainName, Source
from sandhold.policy.decide import decide
from tests.simulators import policy

NAME = Destination(DomainName("good.test"), 443, Source.DNS)

CASES = {
    "public addresses are kept in their order": (
        ["203.0.113.7", "203.0.113.6"],
        ["allow good.test"],
        Reason.RULE,
        ["203.0.113.7", "203.0.113.6"],
    ),
    "one address in the floor refuses all": (
        ["203.0.113.7", "127.0.0.1"],
        ["allow good.test"],
        Reason.ADDRESS_FLOOR,
        [],
    ),
    "the metadata service refuses all, whatever is allowed": (
        ["169.254.169.254"],
        ["allow good.test", "allow 169.254.0.0/16"],
        Reason.METADATA_ADDRESS,
        [],
    ),
    "a denied address is left out": (
        ["203.0.113.7", "203.0.113.6"],
        ["allow good.test", "deny 203.0.113.7"],
        Reason.RULE,
        ["203.0.113.6"],
    ),
    "when every address is denied, the rule has denied": (
        ["203.0.113.7"],
        ["allow good.test", "deny 203.0.113.0/24"],
        Reason.RULE,
        [],
    ),
    "a rule on the address opens the floor": (
        ["10.0.0.7"],
        ["allow good.test", "allow 10.0.0.7:443"],
        Reason.RULE,
        ["10.0.0.7"],
    ),
}


@pytest.mark.parametrize(("answers", "rules", "reason", "kept"), CASES.values(), ids=CASES.keys())
def test_answers_are_vetted(answers: list[str], rules: list[str], reason: Reason, kept: list[str]) -> None:
    """Only vetted addresses are left, and the decision says so."""
    decision, addresses = vet(policy(*rules), NAME, [ip_address(answer) for answer in answers], now=0.0)
    assert [str(address) for address in addresses] == kept
    assert decision.is_allowed is bool(kept)
    assert decision.reason is reason


def test_an_address_that_is_denied_while_it_is_dialled_is_let_go() -> None:
    """A denial of the address that comes between the attempt and its success leaves no connection."""
    holding = [policy("allow good.test")]
    refused: list[Reason] = []
    reactor = Reactor()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def connect(sock: socket.socket, _: tuple[str, int]) -> int:
            holding[0] = policy("allow good.test", "deny 203.0.113.7")
            return sock.connect_ex(listener.getsockname())

        upstream = Upstream(reactor, Answers(reactor, lambda _: [ip_address("203.0.113.7")]), None, connect)

        async def main() -> None:
            try:
                await upstream.dial(NAME, lambda: holding[0], lambda: 0.0, lambda: decide(holding[0], NAME, 0.0))
            except DeniedLateError as late:
                refused.append(late.decision.reason)

        reactor.run(main())
        accepted, _ = listener.accept()
        with accepted, pytest.raises(ConnectionResetError):
            accepted.recv(1)
    assert refused == [Reason.RULE]


OWN_ADDRESS = {
    "a name does not open it": (["allow good.test"], False),
    "everything does not open it": (["allow **"], False),
    "a rule for that address does": (["allow good.test", "allow 93.184.216.34:443"], True),
}


@pytest.mark.parametrize(("rules", "is_dialled"), OWN_ADDRESS.values(), ids=OWN_ADDRESS)
def test_an_address_of_this_machine_is_in_the_floor(rules: list[str], *, is_dialled: bool) -> None:
    """A name whose address is one of this machine's interfaces is dialled only when a rule names that address."""
    index = policy(*rules)
    dialled: list[str] = []
    refused: list[Reason] = []
    reactor = Reactor()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def connect(sock: socket.socket, address: tuple[str, int]) -> int:
            dialled.append(address[0])
            return sock.connect_ex(listener.getsockname())

        own = ip_address("93.184.216.34")
        answers = Answers(reactor, lambda _: [own])
        upstream = Upstream(reactor, answers, None, connect, lambda address: address == own)

        async def main() -> None:
            try:
                found = await upstream.dial(NAME, lambda: index, lambda: 0.0, lambda: decide(index, NAME, 0.0))
                found.stream.close()
            except DeniedLateError as late:
                refused.append(late.decision.reason)

        reactor.run(main())
    assert dialled == ([str(own)] if is_dialled else [])
    assert refused == ([] if is_dialled else [Reason.ADDRESS_FLOOR])


def test_the_machines_own_addresses_are_known() -> None:
    """The kernel says which addresses are this machine's; those of documentation never are."""
    assert is_own_address(ip_address("127.0.0.1"))
    assert not is_own_address(ip_address("203.0.113.7"))


def test_the_hosts_own_names_are_known() -> None:
    """The host's resolver answers with addresses, each once."""
    found = look_up("localhost")
    assert found
    assert all(address.is_loopback for address in found)
    assert len(set(found)) == len(found)
