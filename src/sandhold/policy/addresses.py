"""The address floor: what a name rule never opens, and the little that nothing opens.

Our own table, because `ipaddress.is_global` differs between Python releases and calls `64:ff9b::7f00:1`, `ff02::1` and
168.63.129.16 global.

Rules:

1. An address in a range of `FLOOR` is in the floor. Ranges that the IANA special-purpose registries call documentation
   (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32, 3fff::/20) are not: no real network routes them, and
   test labs use them.
2. Every IPv6 address that carries an IPv4 address (`embedded_ipv4`) is in the floor, whatever it carries: whoever means
   the IPv4 address can write it as one.
3. A metadata address, plain or carried, is never opened. Neither is an address, plain or carried, in a range marked
   `Opening.NEVER`: it names no single far end, or the user's own machine, which is `localhost:PORT`.
4. Any other floor address is opened by a rule on a network that lies wholly within one floor range.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_network
from typing import TYPE_CHECKING, Final

from sandhold.model.decision import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Opening(Enum):
    """Whether an address rule can open a range of the floor."""

    BY_ADDRESS_RULE = "by-address-rule"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class FloorRange:
    """One range of the floor; `kind` is what a person calls it, `source` the document that sets it aside."""

    network: Network
    kind: str
    source: str
    opening: Opening = Opening.BY_ADDRESS_RULE


def _range(network: str, kind: str, source: str, opening: Opening = Opening.BY_ADDRESS_RULE) -> FloorRange:
    return FloorRange(ip_network(network), kind, source, opening)


FLOOR: Final = (
    # IANA IPv4 Special-Purpose Address Registry
    _range("0.0.0.0/8", "unspecified", "RFC 791 section 3.2, RFC 1122 section 3.2.1.3", Opening.NEVER),
    _range("10.0.0.0/8", "private", "RFC 1918"),
    _range("100.64.0.0/10", "carrier-grade NAT", "RFC 6598"),
    _range("127.0.0.0/8", "loopback", "RFC 1122 section 3.2.1.3", Opening.NEVER),
    _range("169.254.0.0/16", "link-local", "RFC 3927"),
    _range("172.16.0.0/12", "private", "RFC 1918"),
    _range("192.0.0.0/24", "protocol assignments", "RFC 6890 section 2.1"),
    _range("192.88.99.0/24", "6to4 relay", "RFC 7526"),
    _range("192.168.0.0/16", "private", "RFC 1918"),
    _range("198.18.0.0/15", "benchmarking", "RFC 2544"),
    _range("224.0.0.0/4", "multicast", "RFC 5771", Opening.NEVER),
    _range("240.0.0.0/4", "reserved", "RFC 1112 section 4"),
    _range("255.255.255.255/32", "broadcast", "RFC 919 section 7", Opening.NEVER),
    # IANA Internet Protocol Version 6 Address Space: all but 2000::/3
    _range("::/128", "unspecified", "RFC 4291 section 2.5.2", Opening.NEVER),
    _range("::1/128", "loopback", "RFC 4291 section 2.5.3", Opening.NEVER),
    _range("::/8", "reserved", "RFC 4291; holds the mapped, compatible and NAT64 forms"),
    _range("100::/8", "reserved", "RFC 4291; holds the discard prefix of RFC 6666"),
    _range("200::/7", "reserved", "RFC 4048"),
    _range("400::/6", "reserved", "RFC 4291"),
    _range("800::/5", "reserved", "RFC 4291"),
    _range("1000::/4", "reserved", "RFC 4291"),
    _range("4000::/3", "reserved", "RFC 4291; holds the segment identifiers of RFC 9602"),
    _range("6000::/3", "reserved", "RFC 4291"),
    _range("8000::/3", "reserved", "RFC 4291"),
    _range("a000::/3", "reserved", "RFC 4291"),
    _range("c000::/3", "reserved", "RFC 4291"),
    _range("e000::/4", "reserved", "RFC 4291"),
    _range("f000::/5", "reserved", "RFC 4291"),
    _range("f800::/6", "reserved", "RFC 4291"),
    _range("fc00::/7", "unique-local", "RFC 4193"),
    _range("fe00::/9", "reserved", "RFC 4291"),
    _range("fe80::/10", "link-local", "RFC 4291 section 2.5.6"),
    _range("fec0::/10", "site-local", "RFC 3879"),
    _range("ff00::/8", "multicast", "RFC 4291 section 2.7", Opening.NEVER),
    # IANA IPv6 Special-Purpose Address Registry, within 2000::/3
    _range("2001::/23", "protocol assignments", "RFC 2928; holds Teredo (RFC 4380) and benchmarking (RFC 5180)"),
    _range("2002::/16", "6to4", "RFC 3056"),
)

METADATA: Final = frozenset(
    {
        IPv4Address("169.254.169.254"),  # the instance metadata service of AWS, Google Cloud, Azure, OpenStack and more
        IPv4Address("169.254.170.2"),  # AWS ECS task credentials
        IPv4Address("169.254.170.23"),  # AWS EKS pod identity
        IPv4Address("169.254.0.23"),  # Tencent Cloud
        IPv4Address("169.254.42.42"),  # Scaleway
        IPv4Address("168.63.129.16"),  # Azure WireServer, in public address space
        IPv4Address("100.100.100.200"),  # Alibaba Cloud
        IPv4Address("192.0.0.192"),  # Oracle Cloud Classic
        IPv6Address("fd00:ec2::254"),  # AWS
        IPv6Address("fd00:ec2::23"),  # AWS EKS pod identity
        IPv6Address("fd00:c1::a9fe:a9fe"),  # Oracle Cloud
        IPv6Address("fd00:42::42"),  # Scaleway
        IPv6Address("fd20:ce::254"),  # Google Cloud
        IPv6Address("fe80::a9fe:a9fe"),  # OpenStack
    }
)

_ISATAP_IDENTIFIERS: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})  # RFC 5214 section 6.1: private and global
_ISATAP_FIXED_BITS: Final = 96

_Masks = tuple[tuple[int, frozenset[int]], ...]


def floor_reason(address: Address) -> Reason | None:
    """Say why a name rule does not open the address, or None when it is public (rules 1 to 3)."""
    carried = embedded_ipv4(address)
    if address in METADATA or any(each in METADATA for each in carried):
        return Reason.METADATA_ADDRESS
    if carried or _is_in(address, _FLOOR_MASKS):
        return Reason.ADDRESS_FLOOR
    return None


def is_never_opened(address: Address) -> bool:
    """Whether no rule at all opens the address (rule 3)."""
    return any(each in METADATA or _is_in(each, _NEVER_MASKS) for each in (address, *embedded_ipv4(address)))


def opens_floor(network: Network) -> bool:
    """Whether a rule on the network opens the floor addresses in it (rule 4), those of rule 3 aside."""
    return _is_isatap_network(network) or any(_contains(each.network, network) for each in FLOOR)


def is_clear_of_floor(network: Network) -> bool:
    """Whether an IPv4 network has no address of the floor and none that nothing opens: most need no closer look."""
    if not isinstance(network, IPv4Network):
        return False
    first = int(network.network_address)
    last = first | int(network.hostmask)
    before = bisect.bisect_right(_CLOSED_IPV4_FIRST, last) - 1
    return before < 0 or _CLOSED_IPV4_LAST[before] < first


def never_opened_range(network: Network) -> FloorRange | None:
    """Return the range marked `Opening.NEVER` that the whole network lies in, plain or carried."""
    carried = embedded_ipv4(network.network_address) if network.prefixlen == network.max_prefixlen else ()
    for inner in (network, *(IPv4Network(each) for each in carried)):
        for each in FLOOR:
            if each.opening is Opening.NEVER and _contains(each.network, inner):
                return each
    return None


def floor_range_within(network: Network) -> FloorRange | None:
    """Return a floor range that the network holds together with other addresses, so that it cannot mean just that
    range."""
    if opens_floor(network):
        return None
    return next((each for each in FLOOR if _contains(network, each.network)), None)


def embedded_ipv4(address: Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that an IPv6 address carries, in every form a translator or tunnel reads.

    Mapped and compatible (RFC 4291 section 2.5.5), translated (RFC 2765 section 2.1), NAT64 (RFC 6052 section 2.2,
    RFC 8215), 6to4 (RFC 3056 section 2), Teredo server and client (RFC 4380 section 4), ISATAP (RFC 5214 section 6.1).
    """
    if isinstance(address, IPv4Address):
        return ()
    return tuple(IPv4Address(each) for each in _embedded_numbers(int(address)))


def _embedded_numbers(number: int) -> Iterator[int]:
    low = number & 0xFFFF_FFFF
    match number >> 32:
        case 0 if low > 1:  # compatible; `::` and `::1` carry nothing
            yield low
        case 0xFFFF | 0xFFFF_0000 | 0x64_FF9B_0000_0000_0000_0000:  # mapped, translated, NAT64's well-known prefix
            yield low
    if number >> 80 == 0x64_FF9B_0001:
        yield from _local_nat64_numbers(number)
    if number >> 112 == 0x2002:
        yield number >> 80 & 0xFFFF_FFFF
    if number >> 96 == 0x2001_0000:
        yield number >> 64 & 0xFFFF_FFFF
        yield low ^ 0xFFFF_FFFF
    if number >> 32 & 0xFFFF_FFFF in _ISATAP_IDENTIFIERS:
        yield low


def _local_nat64_numbers(number: int) -> Iterator[int]:
    """Read 64:ff9b:1::/48 by each prefix length its network may use (RFC 6052 section 2.2): 48, 56, 64 and 96 bits.

    The length is not in the address, so each reading counts, but for those in 0.0.0.0/8, which are padding.
    """
    without_octet_8 = number >> 64 << 56 | (number & 0xFF_FFFF_FFFF_FFFF)
    for shift in (40, 32, 24):
        carried = without_octet_8 >> shift & 0xFFFF_FFFF
        if carried >> 24:
            yield carried
    yield number & 0xFFFF_FFFF


def _is_isatap_network(network: Network) -> bool:
    if isinstance(network, IPv4Network) or network.prefixlen < _ISATAP_FIXED_BITS:
        return False
    return int(network.network_address) >> 32 & 0xFFFF_FFFF in _ISATAP_IDENTIFIERS


def _contains(outer: Network, inner: Network) -> bool:
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)


def _is_in(address: Address, masks: dict[int, _Masks]) -> bool:
    number = int(address)
    return any(number & mask in networks for mask, networks in masks[address.version])


def _masks(ranges: Iterable[FloorRange]) -> dict[int, _Masks]:
    """Arrange ranges by IP version and mask, so that a lookup is one set probe for each mask in use."""
    by_mask: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
    for each in ranges:
        numbers = by_mask[each.network.version].setdefault(int(each.network.netmask), set())
        numbers.add(int(each.network.network_address))
    return {
        version: tuple((mask, frozenset(numbers)) for mask, numbers in groups.items())
        for version, groups in by_mask.items()
    }


_FLOOR_MASKS: Final = _masks(FLOOR)
_NEVER_MASKS: Final = _masks(each for each in FLOOR if each.opening is Opening.NEVER)
_CLOSED_IPV4: Final = tuple(
    collapse_addresses(
        (
            *(each.network for each in FLOOR if isinstance(each.network, IPv4Network)),
            *(IPv4Network(each) for each in METADATA if isinstance(each, IPv4Address)),
        )
    )
)
"""Sorted, and none within another: of all that start before an address, the last alone can hold it."""
_CLOSED_IPV4_FIRST: Final = [int(each.network_address) for each in _CLOSED_IPV4]
_CLOSED_IPV4_LAST: Final = [int(each.broadcast_address) for each in _CLOSED_IPV4]
