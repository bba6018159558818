"""The table of addresses that stand for names."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from sandhold.egress.synthetic_names import NAMES_MAX, NamesFullError, SyntheticNames
from sandhold.model.cell_addresses import SYNTHETIC_IPV4, SYNTHETIC_IPV6
from sandhold.model.destination import DomainName, HostService


def test_a_full_table_refuses_new_names_and_keeps_every_old_one() -> None:
    """Nothing that a sandbox asks makes an address stand for another name, and the table never grows over its limit."""
    names = SyntheticNames(names_max=3)
    given = {host: names.addresses_of(host) for host in (DomainName("a.test"), HostService(), DomainName("b.test"))}

    for number in range(50):
        with pytest.raises(NamesFullError):
            names.addresses_of(DomainName(f"flood-{number}.test"))

    assert len(names) == 3
    for host, pair in given.items():
        assert names.addresses_of(host) == pair
        assert [names.name_of(address) for address in pair] == [host, host]


def test_every_name_up_to_the_limit_has_addresses_of_its_own_within_the_ranges() -> None:
    """All numbers map to distinct addresses inside the ranges, neither the first nor the last of them, and back."""
    names = SyntheticNames()
    seen: set[IPv4Address | IPv6Address] = set()
    for number in range(NAMES_MAX):
        host = DomainName(f"n{number}.test")
        ipv4, ipv6 = names.addresses_of(host)
        seen |= {ipv4, ipv6}
        if number in {0, 254, 255, 256, NAMES_MAX - 1}:
            assert names.name_of(ipv4) == names.name_of(ipv6) == host
    least, greatest = (pick(a for a in seen if isinstance(a, IPv4Address)) for pick in (min, max))

    assert len(seen) == 2 * NAMES_MAX
    assert SYNTHETIC_IPV4.network_address < least <= greatest < SYNTHETIC_IPV4.broadcast_address
    assert all(address in SYNTHETIC_IPV6 for address in seen if isinstance(address, IPv6Address))


NOT_OURS = {
    "the range's first address": "198.18.0.0",
    "the next one that would be given": "198.18.0.2",
    "the range's last address": "198.19.255.255",
    "below the range": "198.17.255.255",
    "an address of the internet": "203.0.113.1",
    "zero": "0.0.0.0",
    "the same number in the other family": "::c612:1",
    "the IPv6 range's first address": "fd5b:78:1::",
    "the next IPv6 one": "fd5b:78:1::2",
    "the gateway": "fd5b:78::1",
    "all ones": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
}


@pytest.mark.parametrize("text", NOT_OURS.values(), ids=NOT_OURS)
def test_any_other_address_stands_for_no_name(text: str) -> None:
    """An address that was never given names nothing."""
    names = SyntheticNames()
    names.addresses_of(DomainName("only.test"))

    assert names.name_of(ip_address(text)) is None


def test_an_ipv4_mapped_address_is_the_ipv4_address() -> None:
    """What a dual-stack socket reports as `::ffff:198.18.0.1` is the same connection."""
    names = SyntheticNames()
    ipv4, _ = names.addresses_of(DomainName("only.test"))

    assert names.name_of(IPv6Address(f"::ffff:{ipv4}")) == DomainName("only.test")


def test_two_sessions_share_nothing() -> None:
    """An address learned in one sandbox says nothing in another."""
    mine, other = SyntheticNames(), SyntheticNames()
    ipv4, ipv6 = mine.addresses_of(DomainName("only.test"))

    assert other.name_of(ipv4) is None
    assert other.name_of(ipv6) is None
