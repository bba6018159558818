"""Tries a cell's network before anything runs in it, with sockets that were made inside: it holds, or there is no cell.

Rules:

1. The namespace has the loopback interface and nothing else, or that and the tap device of a machine.
2. A connection to an address that is nobody's ends at our listener, which knows where it was headed; IPv4 and IPv6.
3. A query to a nameserver that is nobody's ends at our DNS socket; IPv4 and IPv6.

Nothing is sent anywhere but within the namespace, and nothing of it is on record: egress does not run yet.
"""

from __future__ import annotations

import os
import select
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from sandhold.linux.netns import interface_names, original_destination
from sandhold.model.cell_addresses import DNS_PORT

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

TRIAL_TIMEOUT_S: Final = 5.0  # takes under a millisecond; a loaded machine gets patience, a hole is no question of time
LOOPBACK: Final = "lo"
TOKEN_BYTES: Final = 16

_NOBODYS: Final[tuple[IPv4Address | IPv6Address, ...]] = (
    IPv4Address("192.0.2.1"),
    IPv6Address("2001:db8::1"),
)  # documentation (RFC 5737, RFC 3849)
_DISCARD_PORT: Final = 9  # RFC 863


@dataclass(frozen=True, slots=True)
class TrialSockets:
    """Sockets made inside the namespace, not connected yet: `streams` and `datagrams` hold IPv4 before IPv6, `route`
    is rtnetlink(7)."""

    streams: tuple[socket.socket, ...]
    datagrams: tuple[socket.socket, ...]
    route: socket.socket

    def close(self) -> None:
        """Close every socket."""
        for sock in (*self.streams, *self.datagrams, self.route):
            sock.close()


def try_network(
    trial: TrialSockets,
    listeners: Sequence[socket.socket],
    nameservers: Sequence[socket.socket],
    interfaces: tuple[str, ...] = (LOOPBACK,),
) -> None:
    """Hold a network to the rules above; `listeners` and `nameservers` are those that the cell hands out, `interfaces`
    all that the namespace may have, in order.

    Raises:
        OSError: when a rule does not hold, with which one.
    """
    names = interface_names(trial.route)
    if names != interfaces:
        wanted, found = ", ".join(f"`{name}`" for name in interfaces), ", ".join(names) or "none"
        raise OSError(f"the sandbox's network has other interfaces than {wanted}: {found}")
    for sock, listener, address in zip(trial.streams, listeners, _NOBODYS, strict=True):
        _try_stream(sock, listener, address)
    for sock, nameserver, address in zip(trial.datagrams, nameservers, _NOBODYS, strict=True):
        _try_datagram(sock, nameserver, address)


def _try_stream(sock: socket.socket, listener: socket.socket, address: IPv4Address | IPv6Address) -> None:
    headed = (address, _DISCARD_PORT)
    sock.settimeout(0)
    sock.connect_ex((str(address), _DISCARD_PORT))
    arrived, _, _ = select.select([listener], [sock], [], TRIAL_TIMEOUT_S)  # a refusal makes the other one writable
    if not arrived:
        raise OSError(f"a connection inside to {address} does not end at egress")
    accepted, _ = listener.accept()
    with accepted:
        if original_destination(accepted) != headed:
            raise OSError(f"a connection inside to {address} arrives without saying where it was headed")


def _try_datagram(sock: socket.socket, nameserver: socket.socket, address: IPv4Address | IPv6Address) -> None:
    token = os.urandom(TOKEN_BYTES)
    sock.settimeout(0)
    elsewhere = f"a query inside to {address} does not end at egress"
    try:
        sock.sendto(token, (str(address), DNS_PORT))
    except PermissionError:  # a filter's drop on the way out is told to the sender at once
        raise OSError(elsewhere) from None
    arrived, _, _ = select.select([nameserver], [], [], TRIAL_TIMEOUT_S)
    if not arrived or nameserver.recv(TOKEN_BYTES) != token:
        raise OSError(elsewhere)
