"""From what a connection says to the destinations that policy judges.

1. A connection to our own address and port is an explicit-proxy client's; our address anywhere else is refused.
2. A synthetic address is the name it stands for, or nothing.
3. Any other address is itself, in canonical form.
4. A name or an address that a proxy client asks for is judged by the same rules: it may hold a synthetic address, and
   it may be us.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from sandhold.model.cell_addresses import (
    GATEWAY_IPV4,
    GATEWAY_IPV6,
    GATEWAY_NAME,
    PROXY_PORT,
    SYNTHETIC_IPV4,
    SYNTHETIC_IPV6,
)
from sandhold.model.decision import Reason
from sandhold.model.destination import Destination, DomainName, Source, canonical_address, destination_of

if TYPE_CHECKING:
    from sandhold.egress.synthetic_names import SyntheticNames
    from sandhold.model.destination import Host

_GATEWAY_HOSTS: Final = frozenset({GATEWAY_IPV4, GATEWAY_IPV6, DomainName(GATEWAY_NAME)})


def is_explicit(original: tuple[IPv4Address | IPv6Address, int]) -> bool:
    """Whether a connection was made to our proxy on purpose (rule 1)."""
    address, port = original
    return port == PROXY_PORT and canonical_address(address) in _GATEWAY_HOSTS


def name_destination(names: SyntheticNames, host: Host, port: int, source: Source) -> Destination | Reason:
    """Name what is asked for by rules 1 to 4, or say why it has no name."""
    if isinstance(host, IPv4Address | IPv6Address):
        host = canonical_address(host)
    if host in _GATEWAY_HOSTS:
        return Reason.PROXY_SELF
    if not isinstance(host, IPv4Address | IPv6Address):
        return destination_of(host, port, source)
    if host in SYNTHETIC_IPV4 or host in SYNTHETIC_IPV6:
        name = names.name_of(host)
        return Reason.UNKNOWN_ADDRESS if name is None else destination_of(name, port, Source.DNS)
    return destination_of(host, port, source)
