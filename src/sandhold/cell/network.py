"""A cell's network: made inside, handed out as sockets, and without a link to the host.

Rules:

1. The namespace has `lo` and nothing else; for a machine it has a tap device too, whose other end is the machine. Every
   TCP connection to an address that is not its own ends at our listener of that family; every query to port 53,
   whichever server it is for, ends at our DNS sockets; its own addresses stay usable inside; everything else is counted
   and refused.
2. A step that fails leaves nothing: the namespace dies with the process that was making it.
3. It is tried before it is used (`network_trial.py`).
4. The namespace belongs to the outer user namespace, in which nothing inside the cell ever runs: root inside has no
   power over its rules.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from sandhold.cell.network_trial import LOOPBACK, TrialSockets, try_network
from sandhold.cell.spec import CellSockets, DroppedCount
from sandhold.linux.process import Namespaces, Spawn, run_checked, spawn_module
from sandhold.linux.sock_diag import SocketOwners
from sandhold.linux.tap import TAP
from sandhold.linux.users import write_maps_with_helpers, write_single_id_map
from sandhold.linux.veth import CABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandhold.cell.identity import Identity

MAKING_TIMEOUT_S: Final = 30.0  # takes 20 ms; a loaded machine gets patience, a stuck one an error
MESSAGE_BYTES_MAX: Final = 4096
NETWORK_MAKER: Final = "sandhold.cell.inside.network_inside"
_DESCRIPTORS: Final = 13  # six sockets, two namespaces, five sockets for the trial; and two more that may be there
_PROTOCOLS: Final = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "icmpv6", 132: "sctp", 136: "udplite"}


@dataclass(frozen=True, slots=True)
class Network:
    """The sockets of a cell's network and the namespaces it lives in. `close()` is its end once the cell is gone.

    `owners` tells whose a connection is, where that can be told.
    """

    sockets: CellSockets
    namespaces: Namespaces
    tap: int | None = None
    owners: SocketOwners | None = None

    def close(self) -> None:
        """Close every socket and let go of the namespaces."""
        self.sockets.close()
        if self.owners is not None:
            self.owners.link.close()
        for fd in (self.namespaces.network, self.namespaces.user, self.tap):
            if fd is not None:
                os.close(fd)


def open_network(identity: Identity, spawn: Spawn = spawn_module, *, has_tap: bool = False) -> Network:
    """Make a network by rules 1 to 4, owned by the outer user namespace that `identity` asks for; with a tap device in
    it when a machine is to have its card there.

    Raises:
        OSError: when a step fails, with the sentence of the program that failed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.settimeout(MAKING_TIMEOUT_S)
        with theirs:
            child = spawn(NETWORK_MAKER, [theirs.fileno()])
        try:
            return _receive(ours, child.pid, identity, has_tap=has_tap)
        finally:
            child.kill()
            child.wait(MAKING_TIMEOUT_S)


def dropped(namespaces: Namespaces) -> tuple[DroppedCount, ...]:
    """Return the totals of packets that went nowhere, as the namespace's own counters say.

    Raises:
        OSError: when `nft` cannot be run there or its answer is not what this version prints.
    """
    listing = run_checked(["nft", "-j", "list", "ruleset"], inside=namespaces)
    try:
        return tuple(_counts(json.loads(listing)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(f"`nft -j` printed something else than counters: {error}") from error


def _receive(link: socket.socket, pid: int, identity: Identity, *, has_tap: bool) -> Network:
    needs_maps = identity.outer is not None or identity.is_single
    link.send(json.dumps({"parent": os.getpid(), "user_namespace": needs_maps, "tap": has_tap}).encode())
    if needs_maps:
        _expect(link, "unshared")
        if identity.outer is not None:
            write_maps_with_helpers(pid, identity.outer)
        else:
            write_single_id_map(pid, 0, os.geteuid(), os.getegid())
        link.send(b'{"mapped": true}')
    fds = _expect(link, "made")
    if len(fds) - _DESCRIPTORS - has_tap not in (0, 1):
        _close_all(fds)
        raise OSError("the cell's network came without its sockets")
    sockets = [socket.socket(fileno=fd) for fd in fds[:6]]
    if needs_maps:
        user: int | None = fds[7]
    else:
        os.close(fds[7])
        user = None
    trial = [socket.socket(fileno=fd) for fd in fds[8:13]]
    tap = fds[13] if has_tap else None
    led_to = CellSockets(tuple(sockets[0:2]), tuple(sockets[2:4]), tuple(sockets[4:6]), trial[2].dup())
    owners = [SocketOwners(socket.socket(fileno=fd), identity.inner.users) for fd in fds[_DESCRIPTORS + has_tap :]]
    network = Network(led_to, Namespaces(fds[6], user), tap, owners[0] if owners else None)
    with contextlib.closing(TrialSockets(tuple(trial[0:2]), tuple(trial[2:4]), trial[4])) as made:
        try:
            try_network(made, led_to.tcp, led_to.dns_udp, _interfaces(tap))
        except BaseException:
            network.close()
            raise
    return network


def _interfaces(tap: int | None) -> tuple[str, ...]:
    """Return all that the namespace may have, in order; a cable is a socket, a tap device is none."""
    if tap is None:
        return (LOOPBACK,)
    return (LOOPBACK, CABLE, TAP) if stat.S_ISSOCK(os.fstat(tap).st_mode) else (LOOPBACK, TAP)


def _expect(link: socket.socket, word: str) -> list[int]:
    try:
        message, fds, _, _ = socket.recv_fds(link, MESSAGE_BYTES_MAX, _DESCRIPTORS + 2, socket.MSG_CMSG_CLOEXEC)
    except TimeoutError:
        raise OSError("the cell's network was not made in time") from None
    said = json.loads(message) if message else {"failed": "its process ended"}
    if said.get(word) is True:
        return fds
    _close_all(fds)
    raise OSError(f"cannot make the cell's network: {said.get('failed', 'it said something else')}")


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _counts(listing: dict[str, list[dict[str, Any]]]) -> Iterator[DroppedCount]:
    """Read `nft -j`: libnftables-json(5), objects `set` and `counter`."""
    for item in listing["nftables"]:
        if "counter" in item and item["counter"]["packets"]:
            yield DroppedCount(item["counter"]["name"], None, None, int(item["counter"]["packets"]))
        for entry in item.get("set", {}).get("elem", ()):
            element = entry["elem"]
            address, protocol, *port = element["val"]["concat"]
            name = _PROTOCOLS.get(protocol, str(protocol)) if isinstance(protocol, int) else str(protocol)
            yield DroppedCount(
                name, ip_address(address), int(port[0]) if port else None, int(element["counter"]["packets"])
            )
