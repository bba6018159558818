"""Addresses that stand for names, private to one session and never dialled.

Rules:

1. A host has one number for as long as the session lasts, hence one IPv4 and one IPv6 address.
2. A number is never given to a second host: an address that a program kept always means the name it was given for.
3. When all numbers are taken, new names are refused and old ones go on working.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from sandhold.model.cell_addresses import SYNTHETIC_IPV4, SYNTHETIC_IPV6

if TYPE_CHECKING:
    from sandhold.model.destination import DomainName, HostService

NAMES_MAX: Final = 65_536  # far more than an agent looks up, half of the range, 30 MB when all are of full length

_IPV4_BASE: Final = int(SYNTHETIC_IPV4.network_address) + 1  # the range's own first and last address are left out
_IPV6_BASE: Final = int(SYNTHETIC_IPV6.network_address) + 1


class NamesFullError(Exception):
    """Every synthetic address stands for a name already (rule 3)."""


class SyntheticNames:
    """The table of one session, from names to addresses and back."""

    __slots__ = ("_hosts", "_names_max", "_numbers")

    def __init__(self, names_max: int = NAMES_MAX) -> None:
        assert names_max <= SYNTHETIC_IPV4.num_addresses - 2
        self._names_max = names_max
        self._numbers: dict[DomainName | HostService, int] = {}
        self._hosts: list[DomainName | HostService] = []

    def __len__(self) -> int:
        return len(self._hosts)

    def addresses_of(self, host: DomainName | HostService) -> tuple[IPv4Address, IPv6Address]:
        """The two addresses that stand for a host; they are given to it on the first call.

        Raises:
            NamesFullError: when the host is new and the table is full.
        """
        number = self._numbers.get(host)
        if number is None:
            number = len(self._hosts)
            if number >= self._names_max:
                raise NamesFullError(f"{self._names_max} names are in use")
            self._hosts.append(host)
            self._numbers[host] = number
        return IPv4Address(_IPV4_BASE + number), IPv6Address(_IPV6_BASE + number)

    def name_of(self, address: IPv4Address | IPv6Address) -> DomainName | HostService | None:
        """The host an address stands for, None when it stands for none; an IPv4-mapped address is the IPv4 address."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        number = int(address) - (_IPV4_BASE if isinstance(address, IPv4Address) else _IPV6_BASE)
        return self._hosts[number] if 0 <= number < len(self._hosts) else None
