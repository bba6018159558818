"""The address floor, range by range and disguise by disguise."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandhold.model.cell_addresses import GATEWAY_IPV4, GATEWAY_IPV6, SYNTHETIC_IPV4, SYNTHETIC_IPV6
from sandhold.model.decision import Reason
from sandhold.policy.addresses import (
    FLOOR,
    METADATA,
    embedded_ipv4,
    floor_range_within,
    floor_reason,
    is_clear_of_floor,
    is_never_opened,
    never_opened_range,
    opens_floor,
)

CLOSED = {
    "unspecified": "0.0.0.0",
    "this network": "0.1.2.3",
    "private, class A": "10.255.255.255",
    "private, class B": "172.16.0.1",
    "private, the end of class B": "172.31.255.255",
    "private, class C": "192.168.0.1",
    "carrier-grade NAT": "100.64.0.1",
    "loopback": "127.0.0.1",
    "all of loopback": "127.1.2.3",
    "link-local": "169.254.1.1",
    "protocol assignments, which `is_global` calls public": "192.0.0.8",
    "6to4 relay": "192.88.99.1",
    "benchmarking": "198.19.255.255",
    "multicast, which `is_global` calls public": "224.0.0.1",
    "service discovery": "239.255.255.250",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "unspecified in IPv6": "::",
    "loopback in IPv6": "::1",
    "compatible loopback, which `is_global` calls public": "::127.0.0.1",
    "mapped loopback": "::ffff:127.0.0.1",
    "mapped public": "::ffff:93.184.216.34",
    "translated": "::ffff:0:93.184.216.34",
    "NAT64 loopback, which `is_global` calls public": "64:ff9b::7f00:1",
    "NAT64 public": "64:ff9b::5db8:d822",
    "local NAT64": "64:ff9b:1::5db8:d822",
    "discard": "100::1",
    "6to4": "2002:7f00:1::",
    "Teredo": "2001:0:5db8:d822::1",
    "ORCHID": "2001:20::1",
    "benchmarking in IPv6": "2001:2::1",
    "ISATAP in a public prefix": "2606:4700::5efe:a00:1",
    "ISATAP with a global identifier": "2606:4700::200:5efe:a00:1",
    "unique-local": "fd00::1",
    "link-local in IPv6": "fe80::1",
    "site-local, which `is_global` calls public": "fec0::1",
    "multicast in IPv6, which `is_global` calls public": "ff02::1",
    "segment identifiers, which `is_global` calls public": "5f00::1",
    "never assigned": "8000::1",
}
OPEN = {
    "a public address": "93.184.216.34",
    "just below private class A": "9.255.255.255",
    "just above private class A": "11.0.0.0",
    "just below private class B": "172.15.255.255",
    "just above private class B": "172.32.0.0",
    "just below carrier-grade NAT": "100.63.255.255",
    "just above carrier-grade NAT": "100.128.0.0",
    "just above link-local": "169.255.0.0",
    "just above benchmarking": "198.20.0.0",
    "just below multicast": "223.255.255.255",
    "documentation, first": "192.0.2.1",
    "documentation, second": "198.51.100.1",
    "documentation, third": "203.0.113.1",
    "documentation in IPv6": "2001:db8::1",
    "documentation in IPv6, the larger range": "3fff::1",
    "a public IPv6 address": "2606:4700::1111",
    "just above the protocol assignments": "2001:200::1",
    "just above 6to4": "2003::1",
    "the end of global unicast": "3fff:ffff::1",
}


@pytest.mark.parametrize("text", CLOSED.values(), ids=CLOSED.keys())
def test_a_special_address_is_in_the_floor(text: str) -> None:
    """A name rule opens no special-use address, in any disguise."""
    assert floor_reason(ip_address(text)) is Reason.ADDRESS_FLOOR


@pytest.mark.parametrize("text", OPEN.values(), ids=OPEN.keys())
def test_a_public_address_is_not_in_the_floor(text: str) -> None:
    """Public addresses and those of documentation are open."""
    assert floor_reason(ip_address(text)) is None


@pytest.mark.parametrize("address", sorted(METADATA, key=str), ids=str)
def test_a_metadata_address_is_never_opened(address: object) -> None:
    """Every address of a metadata service is closed, with its own reason."""
    metadata = ip_address(str(address))

    assert is_never_opened(metadata)
    assert floor_reason(metadata) is Reason.METADATA_ADDRESS


DISGUISES = {
    "mapped": "::ffff:{hex}",
    "compatible": "::{hex}",
    "translated": "::ffff:0:{hex}",
    "NAT64": "64:ff9b::{hex}",
    "local NAT64, 96 bits": "64:ff9b:1::{hex}",
    "local NAT64, 48 bits": "64:ff9b:1:{high}:{low8}",
    "local NAT64, 56 bits": "64:ff9b:1:{first}:{second}:{last16}::",
    "local NAT64, 64 bits": "64:ff9b:1:0:{first}:{middle16}:{fourth}::",
    "6to4": "2002:{hex}::1",
    "Teredo server": "2001:0:{hex}::1",
    "Teredo client": "2001:0:5db8:d822::{inverted}",
    "ISATAP": "2606:4700::5efe:{hex}",
    "ISATAP, global": "fe80::200:5efe:{hex}",
}


def disguised(form: str, address: IPv4Address) -> str:
    """Write an IPv4 address in one of its IPv6 forms."""
    number = int(address)
    high, low = number >> 16, number & 0xFFFF
    inverted = number ^ 0xFFFFFFFF
    return form.format(
        first=f"{number >> 24:x}",
        second=f"{number >> 16 & 0xFF:x}",
        middle16=f"{number >> 8 & 0xFFFF:x}",
        last16=f"{number & 0xFFFF:x}",
        fourth=f"{(number & 0xFF) << 8:x}",
        hex=f"{high:x}:{low:x}",
        high=f"{high:x}",
        low8=f"{low >> 8:x}:{(low & 0xFF) << 8:x}::",
        inverted=f"{inverted >> 16:x}:{inverted & 0xFFFF:x}",
    )


@pytest.mark.parametrize("form", DISGUISES.values(), ids=DISGUISES.keys())
@pytest.mark.parametrize("metadata", [str(each) for each in METADATA if each.version == 4])
def test_a_metadata_address_is_seen_through_its_disguise(form: str, metadata: str) -> None:
    """A metadata address is recognised in every IPv6 form that carries it."""
    address = ip_address(disguised(form, IPv4Address(metadata)))

    assert is_never_opened(address)
    assert floor_reason(address) is Reason.METADATA_ADDRESS
    assert IPv4Address(metadata) in embedded_ipv4(address)


@pytest.mark.parametrize("form", DISGUISES.values(), ids=DISGUISES.keys())
def test_loopback_is_never_opened_in_a_disguise(form: str) -> None:
    """No IPv6 form that carries loopback can be opened."""
    assert is_never_opened(ip_address(disguised(form, IPv4Address("127.0.0.1"))))


def test_an_address_that_carries_none_is_only_itself() -> None:
    """IPv4, `::`, `::1` and plain IPv6 addresses carry no IPv4 address."""
    for text in ("10.0.0.1", "::", "::1", "2606:4700::1", "fe80::1", "fd00:ec2::254"):
        assert embedded_ipv4(ip_address(text)) == ()


def test_what_the_cell_uses_for_itself_is_in_the_floor() -> None:
    """The gateway and the synthetic addresses are never reached outside by name."""
    for address in (GATEWAY_IPV4, GATEWAY_IPV6, SYNTHETIC_IPV4[1], SYNTHETIC_IPV6[1]):
        assert floor_reason(address) is Reason.ADDRESS_FLOOR


def test_every_range_is_closed_from_end_to_end() -> None:
    """The first and the last address of each range of the table are in the floor, and each states its source."""
    for each in FLOOR:
        assert floor_reason(each.network[0]) is not None
        assert floor_reason(each.network[-1]) is not None
        assert each.kind
        assert each.source


OPENING_NETWORKS = {
    "a floor range itself": ("10.0.0.0/8", True),
    "a part of a floor range": ("192.168.1.0/24", True),
    "one floor address": ("10.1.2.3/32", True),
    "one unique-local address": ("fd00::1/128", True),
    "one ISATAP address in a public prefix": ("2606:4700::5efe:a00:1/128", True),
    "more than a floor range": ("10.0.0.0/7", False),
    "everything": ("0.0.0.0/0", False),
    "everything in IPv6": ("::/0", False),
    "a public network": ("93.184.216.0/24", False),
    "a public prefix that has ISATAP addresses in it": ("2606:4700::/32", False),
}


@pytest.mark.parametrize(("text", "opens"), OPENING_NETWORKS.values(), ids=OPENING_NETWORKS.keys())
def test_a_network_opens_the_floor_only_from_within(text: str, opens: object) -> None:
    """A network opens floor addresses exactly when it lies wholly within the floor."""
    assert opens_floor(ip_network(text)) is opens


def test_a_network_that_mixes_is_named_with_the_range_it_holds() -> None:
    """A network with a floor range and other addresses is told from a public one and from a floor one."""
    mixed = floor_range_within(ip_network("168.0.0.0/6"))

    assert mixed is not None
    assert str(mixed.network) == "169.254.0.0/16"
    assert floor_range_within(ip_network("93.0.0.0/8")) is None
    assert floor_range_within(ip_network("10.0.0.0/8")) is None


def test_a_network_nothing_opens_is_recognised() -> None:
    """Loopback and multicast networks are never opened, nor is an address that carries one."""
    for text in ("127.0.0.0/8", "127.0.0.2/32", "239.0.0.0/8", "::/128", "64:ff9b::7f00:2/128"):
        assert never_opened_range(ip_network(text)) is not None, text
    assert never_opened_range(IPv4Network("10.0.0.0/8")) is None


@given(
    st.one_of(
        st.sampled_from([int(each.network.network_address) for each in FLOOR if each.network.version == 4]),
        st.sampled_from([int(each) for each in METADATA if each.version == 4]),
        st.integers(0, 2**32 - 1),
    ),
    st.integers(-2, 2),
    st.integers(0, 32),
)
@settings(max_examples=500, deadline=None)
def test_a_network_is_clear_of_the_floor_when_it_shares_no_address(near: int, off: int, length: int) -> None:
    """A network that needs no closer look shares no address with the floor, nor with what is metadata."""
    network = IPv4Network(((near + off) % 2**32, length), strict=False)
    shared = any(network.overlaps(each.network) for each in FLOOR if isinstance(each.network, IPv4Network))
    has_metadata = any(each in network for each in METADATA if isinstance(each, IPv4Address))
    assert is_clear_of_floor(network) is not (shared or has_metadata)


def test_no_ipv6_network_is_taken_for_clear() -> None:
    """What may carry an IPv4 address is always looked at."""
    assert not is_clear_of_floor(IPv6Network("2606:4700::/32"))
