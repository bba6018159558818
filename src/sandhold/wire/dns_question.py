"""A question of the sandbox as it was read, and how large messages may be; `dns_message.py` has the rules."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from sandhold.model.destination import DomainName, MalformedError
from sandhold.wire.name import parse_name

if TYPE_CHECKING:
    from sandhold.model.destination import HostService

UDP_BYTES_MAX: Final = 4096  # what resolvers commonly announce; on the loopback of a cell nothing is fragmented
TCP_BYTES_MAX: Final = 65535  # two length bytes, RFC 1035 section 4.2.2
UDP_BYTES_PLAIN: Final = 512  # without EDNS, RFC 1035 section 2.3.4
OUTSIDE_UDP_PAYLOAD: Final = 1232  # fits the smallest IPv6 packet, so that it is never fragmented on its way
OUTSIDE_BYTES_MAX: Final = 16 * 1024  # bounds the time to decode; the largest real answers are some kB of TXT records
OUTSIDE_TTL_MAX_S: Final = 300  # a name that was denied since then is asked for again soon
HEADER_BYTES: Final = 12  # RFC 1035 section 4.1.1

A: Final = 1  # RFC 1035 section 3.2.2
AAAA: Final = 28  # RFC 3596 section 2.1
OPT: Final = 41  # RFC 6891 section 6.1.1
SVCB: Final = 64  # RFC 9460 section 14.1
HTTPS: Final = 65
SERVICE_TYPES: Final = frozenset({HTTPS, SVCB})
_ADDRESS_TYPES: Final = frozenset({A, AAAA})
_META_TYPES: Final = range(128, 256)  # ANY, AXFR and the like, RFC 6895 section 3.1


class Transport(Enum):
    """How the message came; bounds its size."""

    UDP = "udp"
    TCP = "tcp"


class ErrorCode(Enum):
    """Response codes without an answer (RFC 1035 section 4.1.1)."""

    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


@dataclass(frozen=True, slots=True)
class Query:
    """One question. `host` is None when the name cannot be a host's (answer NXDOMAIN).

    `text` is the name as DNS writes it, escaped ASCII, for the record; `query_type` is the number, `type_text` its name
    (`A`, `HTTPS`, `TYPE65280`). `payload_max` is the largest answer the client takes over this transport, in bytes.
    """

    id: int
    host: DomainName | HostService | None
    text: str
    query_type: int
    type_text: str
    transport: Transport
    payload_max: int
    wire: bytes
    """The question as it came: answers are built from it, so that its spelling (0x20) is echoed."""
    is_plain: bool = False
    """Whether it is a header and one question for an address, without compression, and nothing else."""

    @property
    def wants_ipv4(self) -> bool:
        """Whether an A record is asked for."""
        return self.query_type == A

    @property
    def wants_ipv6(self) -> bool:
        """Whether an AAAA record is asked for."""
        return self.query_type == AAAA

    @property
    def may_be_asked_outside(self) -> bool:
        """Whether a resolver outside has anything to say to this type that the sandbox may see (rules 3 and 6)."""
        if not isinstance(self.host, DomainName) or self.query_type in (0, OPT):
            return False
        return self.query_type not in _ADDRESS_TYPES | SERVICE_TYPES and self.query_type not in _META_TYPES


@dataclass(frozen=True, slots=True)
class MalformedQuery:
    """No question that we answer; `reply` is the FORMERR or NOTIMP answer, None when there is nothing to answer."""

    detail: str
    reply: bytes | None


def parse_host(name: bytes) -> DomainName | HostService | None:
    """Return the host of that name, None when no host has it."""
    try:
        return parse_name(name)
    except MalformedError:
        return None
