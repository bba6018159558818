"""The guest's end of its only link: one network card, with the addresses that the cell's rules expect from it."""

# ruff: noqa: PTH123  # files of the kernel's

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from sandhold.linux.interfaces import add_ipv4, add_ipv6, switch_on

if TYPE_CHECKING:
    from sandhold.cell.machine.plan import GuestPlan

_LOOPBACK: Final = "lo"


def set_up_network(plan: GuestPlan) -> None:
    """Switch the loopback and the card on and give the card its addresses.

    Raises:
        OSError: when the machine has no card, or the kernel refuses an address.
    """
    card = _card()
    with open(f"/proc/sys/net/ipv6/conf/{card}/accept_dad", "wb", buffering=0) as file:
        file.write(b"0")  # nobody else is on this link: a search for doubles only takes a second
    with open(f"/proc/sys/net/ipv6/conf/{card}/accept_ra", "wb", buffering=0) as file:
        file.write(b"0")
    switch_on(_LOOPBACK)
    switch_on(card)
    ipv4, ipv6 = plan.ipv4, plan.ipv6
    add_ipv4(card, IPv4Address(ipv4.address), ipv4.prefix, IPv4Address(ipv4.gateway))
    add_ipv6(card, IPv6Address(ipv6.address), ipv6.prefix, IPv6Address(ipv6.gateway))


def _card() -> str:
    """Return the name of the one card; a driver may call it what it likes."""
    cards = [name for name in os.listdir("/sys/class/net") if name != _LOOPBACK]  # noqa: PTH208
    if len(cards) != 1:
        raise OSError(f"the machine has {len(cards)} network cards")
    return cards[0]
