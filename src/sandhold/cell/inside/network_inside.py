"""The program that makes a cell's network from inside, hands its sockets out, and ends.

It runs in a process of its own, because the namespaces it makes become its own. Any step that fails ends it, and the
namespaces with it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Final

from sandhold.linux.process import make_ready, run_checked
from sandhold.linux.sock_diag import open_sock_diag
from sandhold.linux.syscalls import CLONE_NEWNET, CLONE_NEWUSER, die_with_parent, unshare
from sandhold.linux.tap import TAP, open_tap
from sandhold.linux.veth import open_cable
from sandhold.model.cell_addresses import (
    DNS_PORT,
    GATEWAY_IPV4,
    GATEWAY_IPV6,
    GUEST_IPV4,
    GUEST_IPV6,
    LINK_IPV4,
    LINK_IPV6,
    LINK_PREFIX_IPV4,
    LINK_PREFIX_IPV6,
    PROXY_PORT,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKLOG: Final = 4096  # net.core.somaxconn's default; an agent's burst of connections waits here, not in a retry
COUNTED_FLOWS_MAX: Final = 1024  # distinct (protocol, address, port) that are told apart; the rest is one number
MESSAGE_BYTES_MAX: Final = 4096
TABLE: Final = "sbx"

# Nothing leaves through `lo`: the default routes only make the kernel ask the rules below at all.
_LINKS: Final = f"""\
link set lo up
addr add {GATEWAY_IPV4}/32 dev lo
addr add {GATEWAY_IPV6}/128 dev lo nodad
route add default dev lo src {GATEWAY_IPV4}
route add ::/0 dev lo src {GATEWAY_IPV6}
"""

# The card of a machine ends in this device: the only other end of it is the machine.
_TAP_LINKS: Final = f"""\
link set {TAP} up
addr add {LINK_IPV4}/{LINK_PREFIX_IPV4} dev {TAP}
addr add {LINK_IPV6}/{LINK_PREFIX_IPV6} dev {TAP} nodad
"""

# What a machine puts on its link is looked at before the kernel does anything with it: no frame but IP's and ARP's, no
# tag, no address but the one it was given.
_TAP_RULESET: Final = f"""\
table netdev {TABLE} {{
  counter frames {{ }}
  counter spoofed {{ }}
  chain arriving {{
    type filter hook ingress device "{TAP}" priority 0; policy accept;
    ether type != {{ ip, ip6, arp }} counter name frames drop
    ip saddr != {GUEST_IPV4} counter name spoofed drop
    ether type ip6 ip6 saddr != {{ {GUEST_IPV6}, ::, fe80::/10 }} counter name spoofed drop
    arp saddr ip != {GUEST_IPV4} counter name spoofed drop
  }}
}}
"""

# Queries are caught before local addresses are let be: a resolver on 127.0.0.53 is a habit, not a service inside.
# `prerouting` is for the tap device of a microVM; what `lo` delivers has passed `output` already.
# A rule that adds to a full set does not match, so the next one counts what no longer fits.
RULESET: Final = f"""\
table inet {TABLE} {{
  set dropped4 {{ type ipv4_addr . inet_proto . inet_service; flags dynamic; size {COUNTED_FLOWS_MAX}; counter; }}
  set dropped6 {{ type ipv6_addr . inet_proto . inet_service; flags dynamic; size {COUNTED_FLOWS_MAX}; counter; }}
  set other4 {{ type ipv4_addr . inet_proto; flags dynamic; size {COUNTED_FLOWS_MAX}; counter; }}
  set other6 {{ type ipv6_addr . inet_proto; flags dynamic; size {COUNTED_FLOWS_MAX}; counter; }}
  counter overflow {{ }}
  counter forwarded {{ }}
  chain queries {{
    meta nfproto ipv4 udp dport {DNS_PORT} dnat ip to {GATEWAY_IPV4}:{DNS_PORT}
    meta nfproto ipv4 tcp dport {DNS_PORT} dnat ip to {GATEWAY_IPV4}:{DNS_PORT}
    meta nfproto ipv6 udp dport {DNS_PORT} dnat ip6 to [{GATEWAY_IPV6}]:{DNS_PORT}
    meta nfproto ipv6 tcp dport {DNS_PORT} dnat ip6 to [{GATEWAY_IPV6}]:{DNS_PORT}
  }}
  chain streams {{
    meta nfproto ipv4 meta l4proto tcp dnat ip to {GATEWAY_IPV4}:{PROXY_PORT}
    meta nfproto ipv6 meta l4proto tcp dnat ip6 to [{GATEWAY_IPV6}]:{PROXY_PORT}
  }}
  chain redirect_own {{
    type nat hook output priority -100; policy accept;
    jump queries
    fib daddr type local return
    jump streams
  }}
  chain redirect_tap {{
    type nat hook prerouting priority -100; policy accept;
    iifname "lo" return
    jump queries
    fib daddr type local return
    jump streams
  }}
  chain straying {{
    type filter hook prerouting priority -50; policy accept;
    iifname != "{TAP}" accept
    ct status dnat accept
    fib daddr type {{ local, broadcast }} accept
    fib daddr type multicast icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, \
mld-listener-report, mld2-listener-report }} accept
    jump nowhere
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }}
  chain nowhere {{
    meta nfproto ipv4 meta l4proto {{ udp, udplite, tcp, dccp, sctp }} \
update @dropped4 {{ ip daddr . meta l4proto . th dport counter }} return
    meta nfproto ipv6 meta l4proto {{ udp, udplite, tcp, dccp, sctp }} \
update @dropped6 {{ ip6 daddr . meta l4proto . th dport counter }} return
    meta nfproto ipv4 update @other4 {{ ip daddr . meta l4proto counter }} return
    meta nfproto ipv6 update @other6 {{ ip6 daddr . meta l4proto counter }} return
    counter name overflow
  }}
  chain leaving {{
    type filter hook output priority filter; policy drop;
    fib daddr type local accept
    ct state established,related accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    icmpv6 type {{ nd-router-solicit, mld-listener-report, mld2-listener-report }} drop
    oifname "{TAP}" icmp type destination-unreachable accept
    oifname "{TAP}" icmpv6 type destination-unreachable accept
    jump nowhere
    meta l4proto tcp reject with tcp reset
    reject with icmpx type admin-prohibited
  }}
  chain arriving {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state established,related accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    icmpv6 type {{ nd-router-solicit, mld-listener-report, mld2-listener-report }} drop
    ct status dnat accept
    ip daddr {GATEWAY_IPV4} tcp dport {{ {DNS_PORT}, {PROXY_PORT} }} accept
    ip daddr {GATEWAY_IPV4} udp dport {DNS_PORT} accept
    ip6 daddr {GATEWAY_IPV6} tcp dport {{ {DNS_PORT}, {PROXY_PORT} }} accept
    ip6 daddr {GATEWAY_IPV6} udp dport {DNS_PORT} accept
    jump nowhere
    meta l4proto tcp reject with tcp reset
  }}
  chain passing {{
    type filter hook forward priority filter; policy drop;
    jump nowhere
    counter name forwarded drop
  }}
}}
"""


def main(fds: Sequence[int]) -> None:
    """Make the network and send, over the packet socket `fds[0]`: six sockets, the network and user namespaces, and
    five sockets to try it with; after those, when one is wanted, the tap device that a machine's card ends in, and
    where none is wanted and the kernel has one, a socket that tells whose a connection is.

    Messages, one JSON object a packet. Out: `{"unshared": true}` when maps are wanted, `{"made": true}` with the
    descriptors, `{"failed": text}`. In: `{"parent": pid, "user_namespace": bool, "tap": bool}`, `{"mapped": true}`.
    """
    with socket.socket(fileno=fds[0]) as link:
        try:
            _make(link)
        except (OSError, ValueError, KeyError) as error:
            link.send(json.dumps({"failed": str(error)[:2000]}).encode())


def _make(link: socket.socket) -> None:
    order = json.loads(link.recv(MESSAGE_BYTES_MAX))
    die_with_parent(signal.SIGKILL)
    if os.getppid() != order["parent"]:
        return
    make_ready()
    if order["user_namespace"]:
        unshare(CLONE_NEWUSER)
        link.send(b'{"unshared": true}')
        if link.recv(MESSAGE_BYTES_MAX) != b'{"mapped": true}':
            return
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    unshare(CLONE_NEWNET)
    _set_up_kernel()
    taps = [_open_card()] if order["tap"] else []
    run_checked(["ip", "-batch", "-"], stdin=(_LINKS + _TAP_LINKS * len(taps)).encode())
    run_checked(["nft", "-f", "-"], stdin=(RULESET + _TAP_RULESET * len(taps)).encode())
    sockets = _sockets()
    trial = _trial_sockets()
    namespaces = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("net", "user")]
    owners = [] if order["tap"] else _owners()
    fds = [*(one.fileno() for one in sockets), *namespaces, *(one.fileno() for one in trial), *taps]
    socket.send_fds(link, [b'{"made": true}'], [*fds, *(one.fileno() for one in owners)])
    for one in (*sockets, *trial, *owners):
        one.close()


def _open_card() -> int:
    """Make the card that a machine's frames arrive at and return its cable: a tap device, or where this user may make
    none a pair of cards and a socket for raw frames."""
    try:
        return open_tap()
    except OSError:
        return open_cable().detach()


def _set_up_kernel() -> None:
    """Turn IPv6 on where the host's default for new namespaces is off, so that it is captured and not just absent, and
    leave the low ports to anybody inside: root inside has no power over this namespace and could not take them."""
    for name in ("ipv6/conf/all/disable_ipv6", "ipv6/conf/lo/disable_ipv6", "ipv4/ip_unprivileged_port_start"):
        try:
            fd = os.open(f"/proc/sys/net/{name}", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            continue  # read-only in some containers; adding the address says whether it matters
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def _sockets() -> list[socket.socket]:
    """Return TCP, DNS over UDP and DNS over TCP, IPv4 before IPv6 each, bound to exactly the gateway's address.

    A socket bound to every address would answer a query from the address the kernel prefers, which is not the one
    that was asked.
    """
    made: list[socket.socket] = []
    for kind, port in (
        (socket.SOCK_STREAM, PROXY_PORT),
        (socket.SOCK_DGRAM, DNS_PORT),
        (socket.SOCK_STREAM, DNS_PORT),
    ):
        for family, address in ((socket.AF_INET, GATEWAY_IPV4), (socket.AF_INET6, GATEWAY_IPV6)):
            one = socket.socket(family, kind)
            made.append(one)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((str(address), port))
            if kind == socket.SOCK_STREAM:
                one.listen(BACKLOG)
    return made


def _trial_sockets() -> list[socket.socket]:
    """Return what the network is tried with, connected to nothing: TCP and UDP, IPv4 before IPv6 each, rtnetlink(7)."""
    made = [
        socket.socket(family, kind)
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
        for family in (socket.AF_INET, socket.AF_INET6)
    ]
    return [*made, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)]


def _owners() -> list[socket.socket]:
    """Return a socket that tells whose a connection is. A kernel without one leaves that open, and nothing else."""
    try:
        return [open_sock_diag()]
    except OSError:
        return []
