"""What a machine puts on its link goes nowhere, and each packet of it is counted."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import closing
from ipaddress import ip_address
from typing import Final

import pytest

from sandhold.cell.identity import identity_for
from sandhold.cell.network import dropped, open_network
from sandhold.model.cell_addresses import GUEST_IPV4, GUEST_IPV6
from tests.installation import wait_until

_CARD: Final = bytes(10)  # struct virtio_net_hdr: nothing left undone
_OWN_MAC: Final = bytes.fromhex("020000000002")

PACKETS: Final = {
    "to a stranger": ("203.0.113.9", 443),
    "to a group": ("224.0.0.251", 5353),
    "to everybody": ("255.255.255.255", 67),
    "to a group over IPv6": ("ff02::fb", 5353),
    "to a group of the whole site": ("ff05::c", 1900),
}


def frame(address: str, port: int) -> bytes:
    """An Ethernet frame of a machine with a datagram, its checksums left out where IPv4 lets them be."""
    target = ip_address(address)
    datagram = struct.pack("!HHHH", 4000, port, 11, 0) + b"out"
    if target.version == 4:
        head = (
            struct.pack("!BBHHHBBH", 0x45, 0, 31, 1, 0, 64, socket.IPPROTO_UDP, 0) + GUEST_IPV4.packed + target.packed
        )
        total = sum(struct.unpack("!10H", head))
        checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        packet = head[:10] + struct.pack("!H", checksum) + head[12:] + datagram
        return _CARD + _mac_of(address) + _OWN_MAC + b"\x08\x00" + packet
    packet = struct.pack("!IHBB", 6 << 28, len(datagram), socket.IPPROTO_UDP, 64) + GUEST_IPV6.packed + target.packed
    return _CARD + _mac_of(address) + _OWN_MAC + b"\x86\xdd" + packet + datagram


def _mac_of(address: str) -> bytes:
    target = ip_address(address)
    if target.is_multicast:
        group = target.packed
        return (
            b"\x01\x00\x5e" + bytes([group[-3] & 0x7F]) + group[-2:]
            if target.version == 4
            else b"\x33\x33" + group[-4:]
        )
    return b"\xff" * 6


@pytest.mark.parametrize(("address", "port"), PACKETS.values(), ids=PACKETS)
def test_what_a_machine_sends_is_counted(address: str, port: int) -> None:
    """A datagram of a machine, to whomever it is addressed, is in the totals with its destination."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("`/dev/net/tun` cannot be opened here")
    with closing(open_network(identity_for(1), has_tap=True)) as network:
        assert network.tap is not None
        assert [count for count in dropped(network.namespaces) if count.port == port] == []
        os.write(network.tap, frame(address, port))
        wait_until(
            lambda: (address, port) in [(str(count.address), count.port) for count in dropped(network.namespaces)],
            f"the packet is counted: {dropped(network.namespaces)}",
            10,
        )
