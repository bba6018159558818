"""From the address a connection was made to, to the destination that policy judges."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from sandhold.egress.destinations import is_explicit, name_destination
from sandhold.egress.synthetic_names import SyntheticNames
from sandhold.model.decision import Reason
from sandhold.model.destination import Destination, DomainName, HostService, Source

GOOD = DomainName("good.test")


def test_only_our_own_address_and_port_is_the_proxy() -> None:
    """A client speaks to the proxy when it dialled the gateway on the proxy's port, in either family."""
    assert is_explicit((ip_address("10.200.0.1"), 3128))
    assert is_explicit((ip_address("fd5b:78::1"), 3128))
    assert is_explicit((ip_address("::ffff:10.200.0.1"), 3128))
    assert not is_explicit((ip_address("10.200.0.1"), 80))
    assert not is_explicit((ip_address("203.0.113.7"), 3128))


CASES = {
    "a public address is itself": ("203.0.113.7", Destination(ip_address("203.0.113.7"), 443, Source.ADDRESS)),
    "an IPv4 address in IPv6 is that IPv4 address": (
        "::ffff:203.0.113.7",
        Destination(ip_address("203.0.113.7"), 443, Source.ADDRESS),
    ),
    "loopback is the user's machine, as in every spelling": (
        "127.0.0.1",
        Destination(HostService(), 443, Source.ADDRESS),
    ),
    "a synthetic address in IPv6 is no address of a benchmark": ("::ffff:198.19.0.1", Reason.UNKNOWN_ADDRESS),
    "our own address in IPv6": ("::ffff:10.200.0.1", Reason.PROXY_SELF),
    "our own address": ("10.200.0.1", Reason.PROXY_SELF),
    "our own other address": ("fd5b:78::1", Reason.PROXY_SELF),
    "a synthetic address of nobody": ("198.19.0.1", Reason.UNKNOWN_ADDRESS),
    "a synthetic IPv6 address of nobody": ("fd5b:78:1::ffff", Reason.UNKNOWN_ADDRESS),
}


@pytest.mark.parametrize(("address", "expected"), CASES.values(), ids=CASES.keys())
def test_addresses_are_named(address: str, expected: Destination | Reason) -> None:
    """Each address is one destination, or the reason why it is none."""
    assert name_destination(SyntheticNames(), ip_address(address), 443, Source.ADDRESS) == expected


def test_a_synthetic_address_is_its_name() -> None:
    """Both addresses of a name stand for it, however the client came to ask for them."""
    names = SyntheticNames()
    for address in names.addresses_of(GOOD):
        assert name_destination(names, address, 22, Source.CONNECT) == Destination(GOOD, 22, Source.DNS)


def test_a_name_is_itself_unless_it_is_ours() -> None:
    """A proxy client's name is judged as it stands; the gateway's own name leads nowhere."""
    names = SyntheticNames()
    assert name_destination(names, GOOD, 22, Source.CONNECT) == Destination(GOOD, 22, Source.CONNECT)
    ours = DomainName("gateway.sbx.internal")
    assert name_destination(names, ours, 22, Source.CONNECT) is Reason.PROXY_SELF
