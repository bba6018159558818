"""The ways out of a sandbox that `sbx verify` tries, as data. Words in braces are filled in when one is tried.

Each is aimed at a canary of our own on the host, at an address that no policy opens, or at a name that cannot exist, so
that trying it in the user's own sandbox does no harm, and an escape would have told nobody but us.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from sandhold.model.cell_addresses import GATEWAY_IPV4, PROXY_PORT

_PROXY: Final = f"{GATEWAY_IPV4}:{PROXY_PORT}"
_NOBODY: Final = "203.0.113.53"  # documentation (RFC 5737)
_TO_HOST: Final = ("{own4}", "{port}", "{token}")
_A: Final = "1"
_TXT: Final = "16"


class Trace(Enum):
    """What the trail has to hold of an attempt that came to nothing."""

    NONE = "none"
    """The kernel inside refuses it, or it stays inside."""
    CONNECTION = "connection"
    LOOKUP = "lookup"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way out. `action` is a function of `probe_inside.py`, `arguments` its arguments; `trace` is what goes on
    record. With `has_control` it is tried on the host first, where the canary has to hear it. `port` is the one on
    record when it is not the canary's."""

    name: str
    what: str
    action: str
    arguments: tuple[str, ...]
    trace: Trace = Trace.NONE
    user: str = "agent"
    has_control: bool = False
    port: int | None = None


def _tcp(name: str, what: str, address: str, trace: Trace, *, has_control: bool = False) -> Attempt:
    return Attempt(name, what, "tcp", (address, "{port}", "{token}"), trace, has_control=has_control)


def _udp(name: str, what: str, address: str, trace: Trace, *, has_control: bool = False) -> Attempt:
    return Attempt(name, what, "udp", (address, "{port}", "{token}"), trace, has_control=has_control)


def _connect(name: str, what: str, host: str) -> Attempt:
    return Attempt(name, what, "connect", (_PROXY, host + ":{port}", "{token}"), Trace.CONNECTION)


ATTEMPTS: Final = (
    _tcp("tcp-loopback", "connect to the host's loopback", "127.0.0.1", Trace.NONE, has_control=True),
    _tcp("tcp-loopback-ipv6", "connect to the host's loopback over IPv6", "::1", Trace.NONE, has_control=True),
    _tcp("tcp-host-alias", "connect to the host by the name it has inside", "host.docker.internal", Trace.CONNECTION),
    _tcp("tcp-host", "connect to an address of the host", "{own4}", Trace.CONNECTION, has_control=True),
    _tcp("tcp-host-ipv6", "connect to an IPv6 address of the host", "{own6}", Trace.CONNECTION, has_control=True),
    _tcp("tcp-mapped", "connect to an IPv4-mapped address", "::ffff:{own4}", Trace.CONNECTION, has_control=True),
    _tcp("tcp-gateway", "connect to the gateway, where only egress listens", str(GATEWAY_IPV4), Trace.NONE),
    _tcp("tcp-unspecified", "connect to the address of no host", "0.0.0.0", Trace.NONE),  # noqa: S104 - dialled, not bound
    Attempt(
        "tcp-fast-open", "send data with the first packet", "tcp_fast_open", ("{own4}", "{port}", "{token}"),
        Trace.CONNECTION, has_control=True,
    ),
    Attempt(
        "tcp-marked", "as root, choose mark, device and source address", "tcp_marked", ("{own4}", "{port}", "{token}"),
        Trace.CONNECTION, user="root",
    ),
    _connect("connect-loopback", "tunnel to loopback through the proxy", "127.0.0.1"),
    _connect("connect-localhost", "tunnel to `localhost` through the proxy", "localhost"),
    _connect("connect-host", "tunnel to an address of the host through the proxy", "{own4}"),
    _connect("connect-decimal", "tunnel to an address written as one number", "2130706433"),
    _connect("connect-hexadecimal", "tunnel to an address written in hexadecimal", "0x7f.1"),
    _connect("connect-octal", "tunnel to an address written in octal", "0177.0.0.1"),
    _connect("connect-short", "tunnel to an address with parts left out", "127.1"),
    _connect("connect-mapped", "tunnel to an IPv4-mapped address", "[::ffff:127.0.0.1]"),
    _connect("connect-zero", "tunnel to the address of no host", "0.0.0.0"),  # noqa: S104 - asked for, not bound
    _connect("connect-nul", "tunnel to a name with a zero byte in it", "127.0.0.1%00.good.test"),
    _connect("connect-user", "tunnel with a user name before the host", "good.test@127.0.0.1"),
    _connect("connect-digits", "tunnel to an address in digits of another alphabet", "\u2460\u2461\u2466.0.0.1"),
    Attempt(
        "http-absolute", "ask the proxy for a resource on loopback", "request",
        (_PROXY, "http://127.0.0.1:{port}", "{token}"), Trace.CONNECTION,
    ),
    Attempt(
        "http-host", "ask an unknown server for a host on loopback", "http",
        (_NOBODY, "80", "127.0.0.1:{port}", "{token}"), Trace.CONNECTION, port=80,
    ),
    Attempt(
        "metadata", "ask the cloud's metadata service", "http",
        ("169.254.169.254", "80", "169.254.169.254", "{token}"), Trace.CONNECTION, port=80,
    ),
    Attempt(
        "metadata-ipv6", "ask the cloud's metadata service over IPv6", "http",
        ("fd00:ec2::254", "80", "[fd00:ec2::254]", "{token}"), Trace.CONNECTION, port=80,
    ),
    _udp("udp-loopback", "send a datagram to the host's loopback", "127.0.0.1", Trace.NONE, has_control=True),
    _udp("udp-host-alias", "send a datagram to the host's name inside", "host.docker.internal", Trace.DROPPED),
    _udp("udp-host", "send a datagram to an address of the host", "{own4}", Trace.DROPPED, has_control=True),
    _udp("udp-host-ipv6", "send a datagram to an IPv6 address of the host", "{own6}", Trace.DROPPED, has_control=True),
    _udp("udp-gateway", "send a datagram to the gateway", str(GATEWAY_IPV4), Trace.NONE),
    _udp("udp-broadcast", "send a datagram to everybody", "255.255.255.255", Trace.NONE),
    _udp("udp-multicast", "send a datagram to a group", "224.0.0.251", Trace.NONE),
    Attempt("raw-datagram", "as root, write a packet", "raw_udp", _TO_HOST, user="root"),
    Attempt("frame", "as root, write an Ethernet frame", "frame", _TO_HOST, user="root"),
    Attempt("ping", "send an ICMP echo to an address of the host", "ping", ("{own4}",), user="root"),
    Attempt("vsock", "connect to the host below the network", "vsock", ("{port}",), user="root"),
    Attempt(
        "dns-elsewhere", "ask a nameserver of one's own", "dns",
        (_NOBODY, "udp", _A, "{token}.invalid"), Trace.LOOKUP,
    ),
    Attempt(
        "dns-tcp", "ask a nameserver of one's own over TCP", "dns",
        (_NOBODY, "tcp", _A, "{token}.tcp.invalid"), Trace.LOOKUP,
    ),
    Attempt(
        "dns-labels", "carry data out in the labels of a question", "dns",
        (str(GATEWAY_IPV4), "udp", _TXT, "{token}.labels.invalid"), Trace.LOOKUP,
    ),
    Attempt("dns-tls", "ask a nameserver over TLS", "tcp", (_NOBODY, "853", "{token}"), Trace.CONNECTION, port=853),
    Attempt("dns-quic", "ask a nameserver over QUIC", "udp", (_NOBODY, "853", "{token}"), Trace.DROPPED, port=853),
    Attempt("unix-path", "connect to a socket of the host", "unix", ("{socket}", "{token}"), has_control=True),
    Attempt(
        "unix-abstract", "connect to a socket of the host by its abstract name", "unix", ("@{token}", "{token}"),
        has_control=True,
    ),
    Attempt("file-read", "read a file of the host", "read", ("{secret}",), has_control=True),
    Attempt("file-root", "as root, read it through process 1", "read", ("/proc/1/root{secret}",), user="root"),
    Attempt("file-write", "as root, write into a folder of the host", "write", ("{folder}/written",), user="root"),
)  # fmt: skip
"""In the order in which they are tried."""
