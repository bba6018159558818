"""The addresses inside every cell: the same in each, because no two cells share a network.

The gateway is an address of the cell's own loopback interface, so nothing on any real network has to know it. Synthetic
IPv4 addresses come from the benchmarking range (RFC 2544, RFC 5735), synthetic IPv6 addresses from a unique-local
prefix (RFC 4193): neither is ever dialled. A machine has the guest's address, on a link whose
other end is the cell's network.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

GATEWAY_IPV4: Final = IPv4Address("10.200.0.1")
GATEWAY_IPV6: Final = IPv6Address("fd5b:78::1")
GATEWAY_NAME: Final = "gateway.sbx.internal"
LINK_IPV4: Final = IPv4Address("10.200.1.1")
LINK_IPV6: Final = IPv6Address("fd5b:78:2::1")
GUEST_IPV4: Final = IPv4Address("10.200.1.2")
GUEST_IPV6: Final = IPv6Address("fd5b:78:2::2")
LINK_PREFIX_IPV4: Final = 30
LINK_PREFIX_IPV6: Final = 64
PROXY_PORT: Final = 3128
DNS_PORT: Final = 53
SYNTHETIC_IPV4: Final = IPv4Network("198.18.0.0/15")
SYNTHETIC_IPV6: Final = IPv6Network("fd5b:78:1::/96")
