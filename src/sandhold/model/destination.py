"""Where a connection wants to go, in the one canonical form that policy, resolver, dialler, log and refusal share.

What is read again soon is not read twice: equal text gives one and the same frozen object, by which everything that was
remembered about it is found at once.

Rules (RFC 1123 section 2.1, RFC 3986 section 3.2.2, RFC 5952; what is refused is refused because some resolver, parser
or person would read it as another host):

1. Only ASCII. A host is never decoded: not percent-encoding, not IDNA, not Unicode digits or dots.
2. A name is case-folded, one trailing dot is dropped, at most 253 bytes in labels of 1 to 63 letters, digits, hyphens
   and underscores; a hyphen neither starts nor ends a label; at least two labels.
3. A last label that a resolver could take for a number (all digits, or hexadecimal after `0x`) makes the whole text an
   address or nothing: `127.1`, `0x7f.1`, `2130706433`, `1.2.3.04` are refused.
4. IPv6 stands bare or in one pair of brackets, without a zone; brackets hold nothing else.
5. An IPv4 address written inside IPv6 as `::ffff:a.b.c.d` is that IPv4 address.
6. The user's machine is one host, `HostService`, however it is spelt.
7. A port is one to five ASCII digits without a leading zero, 1 to 65535.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

NAME_BYTES_MAX: Final = 253  # RFC 1035 section 2.3.4, without the root's empty label
LABEL_BYTES_MAX: Final = 63  # RFC 1035 section 2.3.4
REMEMBERED_MAX: Final = 1024  # hosts, and destinations, in use at a time; half a megabyte when all are long
AUTHORITY_BYTES_MAX: Final = NAME_BYTES_MAX + 9  # a name, its trailing dot, two brackets, a colon, five digits

HOST_SERVICE_NAMES: Final = frozenset(
    {"localhost", "host.docker.internal", "gateway.docker.internal", "host.sbx.internal"}
)

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_IPV6 = re.compile(r"[0-9a-fA-F:.]{2,45}")
_IPV4_LOOPBACK: Final = IPv4Address("127.0.0.1")
_IPV6_LOOPBACK: Final = IPv6Address("::1")


class MalformedError(ValueError):
    """Text that is no host, port or authority; `str()` says why in a few words, and never repeats the text."""


class Source(StrEnum):
    """Who said that the connection is for this host."""

    ADDRESS = "address"
    DNS = "dns"
    SNI = "sni"
    HTTP_HOST = "http-host"
    CONNECT = "connect"


@dataclass(frozen=True, slots=True)
class DomainName:
    """A canonical name: lower-case ASCII, no trailing dot."""

    value: str

    @classmethod
    def parse(cls, text: bytes | str) -> DomainName:
        """Read a name by rules 1 to 3.

        Raises:
            MalformedError: when the text is no name, or names the user's machine.
        """
        host = parse_host(text)
        if not isinstance(host, DomainName):
            raise MalformedError("not a domain name")
        return host

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels from left to right: `("files", "example", "com")`."""
        return tuple(self.value.split("."))

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class HostService:
    """The user's own machine, reached through its loopback."""

    def __str__(self) -> str:
        return "host.docker.internal"


Host = DomainName | IPv4Address | IPv6Address | HostService


@dataclass(frozen=True, slots=True)
class Destination:
    """Host and port as policy sees them, with the source of the host."""

    host: Host
    port: int
    source: Source

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if isinstance(self.host, IPv6Address) else f"{self.host}:{self.port}"


@functools.lru_cache(maxsize=REMEMBERED_MAX)
def destination_of(host: Host, port: int, source: Source) -> Destination:
    """The destination with this host and port, one object for as long as it is in use."""
    return Destination(host, port, source)


@functools.lru_cache(maxsize=REMEMBERED_MAX)
def parse_host(text: bytes | str) -> Host:
    """Read one host by rules 1 to 6, in time linear in its length.

    Raises:
        MalformedError: when the text is not exactly one host.
    """
    folded = _ascii(text)
    if folded.startswith("["):
        if not folded.endswith("]"):
            raise MalformedError("mismatched brackets")
        return _ipv6(folded[1:-1])
    if ":" in folded:
        return _ipv6(folded)
    if _IPV4.fullmatch(folded):
        return _ipv4(folded)
    return _name(folded)


def parse_port(text: bytes | str) -> int:
    """Read a port by rule 7.

    Raises:
        MalformedError: when the text is no port.
    """
    digits = _ascii(text)
    if not _PORT.fullmatch(digits) or int(digits) > 65535:
        raise MalformedError("not a port")
    return int(digits)


def parse_authority(text: bytes | str, default_port: int | None = None) -> tuple[Host, int]:
    """Read `host:port`, `[ipv6]:port` or, with a default port, a bare host (RFC 3986 section 3.2, without userinfo).

    Raises:
        MalformedError: when it is anything else, or the port is missing and there is no default.
    """
    folded = _ascii(text)
    host_text, colon, port_text = folded.rpartition(":")
    if not colon or folded.endswith("]"):
        if default_port is None:
            raise MalformedError("no port")
        host_text, port = folded, default_port
    else:
        port = parse_port(port_text)
    if ":" in host_text and not host_text.startswith("["):
        raise MalformedError("an IPv6 address needs brackets here")
    return parse_host(host_text), port


def canonical_address(address: IPv4Address | IPv6Address) -> Host:
    """Bring an address to the form that `parse_host` gives: rule 5, then rule 6."""
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        if mapped is not None:
            address = mapped
    if address in (_IPV4_LOOPBACK, _IPV6_LOOPBACK):
        return HostService()
    return address


def _ascii(text: bytes | str) -> str:
    if len(text) > AUTHORITY_BYTES_MAX:
        raise MalformedError("too long")
    try:
        decoded = text.decode("ascii") if isinstance(text, bytes) else text.encode("ascii").decode("ascii")
    except UnicodeError:
        raise MalformedError("not ASCII") from None
    return decoded.lower()


def _name(folded: str) -> Host:
    name = folded.removesuffix(".")
    if name in HOST_SERVICE_NAMES:
        return HostService()
    if not name or len(name) > NAME_BYTES_MAX:
        raise MalformedError("empty name" if not name else "name longer than 253 bytes")
    labels = name.split(".")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise MalformedError("a label is empty, too long, or has a character that no host name has")
    if _NUMBER.fullmatch(labels[-1]):
        raise MalformedError("ends in a number but is no IPv4 address")
    if len(labels) < 2:
        raise MalformedError("a single label names no host on the internet")
    return DomainName(name)


def _ipv4(folded: str) -> Host:
    try:
        return canonical_address(IPv4Address(folded))
    except AddressValueError:
        raise MalformedError("not an IPv4 address") from None


def _ipv6(folded: str) -> Host:
    if not _IPV6.fullmatch(folded):
        raise MalformedError("not an IPv6 address")
    try:
        return canonical_address(IPv6Address(folded))
    except AddressValueError:
        raise MalformedError("not an IPv6 address") from None
