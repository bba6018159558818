"""DNS questions from the sandbox and the answers we make (RFC 1035, RFC 6891).

1. A message is a standard query with exactly one question of class IN, nothing in the answer and authority sections, at
   most one additional record, which is an EDNS one of version 0, and nothing behind it. What is an answer itself is
   dropped, any other message is answered with the code that says what is wrong with it.
2. It has at most 4096 bytes over UDP and 65535 over TCP.
3. The name is a host as `parse_name` reads it, each label as it is: a label with a dot in it, an address, a single
   label or the root is no host, and is never asked for outside.
4. An answer is never larger than the client takes: 512 bytes over UDP unless EDNS says more, 4096 at most; what does
   not fit is left out and the answer is marked as truncated.
5. Of an answer from outside, what is kept is the response code (no error or no such name, anything else is a failure),
   the truncation mark, and the answer records of the type asked for and the aliases that lead to them, with a bounded
   time to live. It must have the id and the very question that we asked.
6. An answer to HTTPS or SVCB is empty: its keys for an encrypted ClientHello and its address hints would lead past the
   names that policy judges (RFC 9460 section 7.3, RFC 9848).

The plain question for an address, which is nearly every one, is read and answered here, exactly as dnspython would; all
others are dnspython's. Keep out of other modules' imports: dnspython is slow to load.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from sandhold.model.destination import LABEL_BYTES_MAX, DomainName, MalformedError
from sandhold.wire.name import parse_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv6Address

    from sandhold.model.destination import HostService

UDP_BYTES_MAX: Final = 4096  # what resolvers commonly announce; on the loopback of a cell nothing is fragmented
TCP_BYTES_MAX: Final = 65535  # two length bytes, RFC 1035 section 4.2.2
UDP_BYTES_PLAIN: Final = 512  # without EDNS, RFC 1035 section 2.3.4
OUTSIDE_UDP_PAYLOAD: Final = 1232  # fits the smallest IPv6 packet, so that it is never fragmented on its way
OUTSIDE_BYTES_MAX: Final = 16 * 1024  # bounds the time to decode; the largest real answers are some kB of TXT records
OUTSIDE_TTL_MAX_S: Final = 300  # a name that was denied since then is asked for again soon

_HEADER_BYTES: Final = 12
_QR: Final = 0x8000
_OPCODE_MASK: Final = 0x7800
_RD: Final = 0x0100
_ALIASES: Final = frozenset({dns.rdatatype.CNAME, dns.rdatatype.DNAME})
_SERVICE_TYPES: Final = frozenset({dns.rdatatype.HTTPS, dns.rdatatype.SVCB})
_ADDRESS_TYPES: Final = frozenset({dns.rdatatype.A, dns.rdatatype.AAAA})
_META_TYPES: Final = range(128, 256)  # ANY, AXFR and the like, RFC 6895 section 3.1

_PLAIN_HEADER: Final = struct.pack(">5H", _RD, 1, 0, 0, 0)  # behind the id: recursion desired, one question, no more
_PLAIN_NAME = re.compile(rb"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_PLAIN_TYPES: Final = {b"\0\0\1\0\1": dns.rdatatype.A, b"\0\0\x1c\0\1": dns.rdatatype.AAAA}
"""The end of a plain question: of its name, its type, and class IN."""
_NAME_WIRE_BYTES_MAX: Final = 255  # RFC 1035 section 2.3.4
_ANSWERED: Final = 0x8180  # QR, RD as it was asked, RA
_NAME_IN_QUESTION: Final = 0xC000 | _HEADER_BYTES  # a pointer to it, RFC 1035 section 4.1.4


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
        return self.query_type == dns.rdatatype.A

    @property
    def wants_ipv6(self) -> bool:
        """Whether an AAAA record is asked for."""
        return self.query_type == dns.rdatatype.AAAA

    @property
    def may_be_asked_outside(self) -> bool:
        """Whether a resolver outside has anything to say to this type that the sandbox may see (rules 3 and 6)."""
        if not isinstance(self.host, DomainName) or self.query_type in (0, dns.rdatatype.OPT):
            return False
        return self.query_type not in _ADDRESS_TYPES | _SERVICE_TYPES and self.query_type not in _META_TYPES


@dataclass(frozen=True, slots=True)
class MalformedQuery:
    """No question that we answer; `reply` is the FORMERR or NOTIMP answer, None when there is nothing to answer."""

    detail: str
    reply: bytes | None


def read_query(data: bytes, transport: Transport = Transport.UDP) -> Query | MalformedQuery:
    """Read one DNS message of the sandbox (over TCP without its two length bytes) by rules 1 to 3; raises nothing."""
    plain = _read_plain(data, transport)
    if plain is not None:
        return plain
    refusal = _check_header(data, transport)
    if refusal is not None:
        return refusal
    try:
        message = dns.message.from_wire(data)
    except dns.exception.DNSException:
        return MalformedQuery("not a DNS message", _bare_error(data, ErrorCode.FORMERR))
    (question,) = message.question
    if question.rdclass != dns.rdataclass.IN:
        return MalformedQuery("a question of another class than IN", _bare_error(data, ErrorCode.NOTIMP))
    if message.additional:
        return MalformedQuery("an additional record", _bare_error(data, ErrorCode.FORMERR))
    if message.edns > 0:
        return MalformedQuery("an unknown version of EDNS", _bad_version(message))
    return Query(
        id=message.id,
        host=_parse_host(question.name),
        text=question.name.to_text(omit_final_dot=True),
        query_type=int(question.rdtype),
        type_text=dns.rdatatype.to_text(question.rdtype),
        transport=transport,
        payload_max=_payload_max(message, transport),
        wire=data,
    )


def build_answer(query: Query, addresses: Sequence[IPv4Address | IPv6Address], ttl: int) -> bytes:
    """Answer with those of `addresses` that are of the type asked for, `ttl` in seconds; without any, the answer is
    empty."""
    if query.is_plain:
        wanted_packed = [each.packed for each in addresses if each.version == (4 if query.wants_ipv4 else 6)]
        if len(wanted_packed) <= 1:
            return _write_plain(query, wanted_packed, ttl)
    response = _response(query)
    version = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}.get(_record_type(query))
    wanted = [str(address) for address in addresses if address.version == version]
    if wanted:
        name = response.question[0].name
        response.answer.append(dns.rrset.from_text(name, ttl, dns.rdataclass.IN, _record_type(query), *wanted))
    return _write(response, query)


def build_empty(query: Query) -> bytes:
    """Answer NOERROR without a record: the name exists, that type does not."""
    return _write(_response(query), query)


def build_error(query: Query, code: ErrorCode) -> bytes:
    """Answer with an error code."""
    response = _response(query)
    response.set_rcode(dns.rcode.Rcode(code.value))
    return _write(response, query)


def build_outside_query(query: Query, message_id: int) -> bytes:
    """Ask a resolver outside the same under `message_id`: the canonical name, and no EDNS option of the sandbox.

    Only for a query that `may_be_asked_outside`.
    """
    message = dns.message.QueryMessage(id=message_id)
    message.flags |= dns.flags.RD
    message.question.append(dns.rrset.RRset(_outside_name(query), dns.rdataclass.IN, _record_type(query)))
    message.use_edns(0, 0, OUTSIDE_UDP_PAYLOAD)
    return message.to_wire()


def strip_answer(query: Query, answer: bytes, message_id: int) -> bytes | None:
    """Bring a resolver's answer to the sandbox's question by rules 4 to 6, None when it is no answer to it."""
    if query.query_type in _SERVICE_TYPES:
        return build_empty(query)
    if not query.may_be_asked_outside or len(answer) > OUTSIDE_BYTES_MAX:
        return None
    try:
        outside = dns.message.from_wire(answer)
    except dns.exception.DNSException:
        return None
    if not _answers(outside, query, message_id):
        return None
    if outside.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return build_error(query, ErrorCode.SERVFAIL)
    response = _response(query)
    response.set_rcode(outside.rcode())
    response.flags |= outside.flags & dns.flags.TC
    for rrset in outside.answer:
        if rrset.rdclass == dns.rdataclass.IN and (rrset.rdtype == query.query_type or rrset.rdtype in _ALIASES):
            rrset.ttl = min(rrset.ttl, OUTSIDE_TTL_MAX_S)
            response.answer.append(rrset)
    return _write(response, query)


def _read_plain(data: bytes, transport: Transport) -> Query | None:
    """Read the question that nearly every program asks, None when it is any other or could be read another way."""
    if data[2:_HEADER_BYTES] != _PLAIN_HEADER:
        return None
    labels = []
    at = _HEADER_BYTES
    while at < len(data) and data[at]:  # more than 63 is a pointer, and what it takes is no plain name
        labels.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    query_type = _PLAIN_TYPES.get(data[at:])
    name = b".".join(labels)
    if query_type is None or at + 1 - _HEADER_BYTES > _NAME_WIRE_BYTES_MAX or not _PLAIN_NAME.fullmatch(name):
        return None
    if name.count(b".") != len(labels) - 1 or any(len(label) > LABEL_BYTES_MAX for label in labels):
        return None
    return Query(
        id=int.from_bytes(data[:2], "big"),
        host=_parse_plain(name),
        text=name.decode("ascii"),
        query_type=int(query_type),
        type_text=query_type.name,
        transport=transport,
        payload_max=TCP_BYTES_MAX if transport is Transport.TCP else UDP_BYTES_PLAIN,
        wire=data,
        is_plain=True,
    )


def _write_plain(query: Query, packed: Sequence[bytes], ttl: int) -> bytes:
    """Answer a plain question with one address or none; that always fits."""
    header = struct.pack(">6H", query.id, _ANSWERED, 1, len(packed), 0, 0)
    records = [
        struct.pack(">HHHIH", _NAME_IN_QUESTION, query.query_type, dns.rdataclass.IN, ttl, len(each)) + each
        for each in packed
    ]
    return b"".join((header, query.wire[_HEADER_BYTES:], *records))


def _check_header(data: bytes, transport: Transport) -> MalformedQuery | None:
    """The part of rules 1 and 2 that the first twelve bytes decide, before anything is decoded."""
    if len(data) < _HEADER_BYTES:
        return MalformedQuery("shorter than a DNS header", None)
    flags, questions, answers, authorities, additionals = (
        int.from_bytes(data[at : at + 2], "big") for at in range(2, _HEADER_BYTES, 2)
    )
    if flags & _QR:
        return MalformedQuery("an answer where a question must stand", None)
    if len(data) > (UDP_BYTES_MAX if transport is Transport.UDP else TCP_BYTES_MAX):
        return MalformedQuery("the message is too large", _bare_error(data, ErrorCode.FORMERR))
    if flags & _OPCODE_MASK:
        return MalformedQuery("not a standard query", _bare_error(data, ErrorCode.NOTIMP))
    if questions != 1 or answers or authorities or additionals > 1:
        return MalformedQuery("not exactly one question", _bare_error(data, ErrorCode.FORMERR))
    return None


def _bare_error(data: bytes, code: ErrorCode) -> bytes:
    """An answer of a header alone, for a question that we could not or would not read."""
    flags = int.from_bytes(data[2:4], "big")
    return data[:2] + (_QR | flags & (_OPCODE_MASK | _RD) | code.value).to_bytes(2, "big") + bytes(8)


def _bad_version(message: dns.message.Message) -> bytes:
    response = dns.message.make_response(message, our_payload=UDP_BYTES_MAX, pad=0)
    response.set_rcode(dns.rcode.BADVERS)
    return response.to_wire(max_size=UDP_BYTES_PLAIN)


def _parse_host(name: dns.name.Name) -> DomainName | HostService | None:
    labels = name.labels[:-1]
    return None if any(b"." in label for label in labels) else _parse_plain(b".".join(labels))


def _parse_plain(name: bytes) -> DomainName | HostService | None:
    try:
        return parse_name(name)
    except MalformedError:
        return None


def _payload_max(message: dns.message.Message, transport: Transport) -> int:
    if transport is Transport.TCP:
        return TCP_BYTES_MAX
    announced = message.payload if message.edns >= 0 else UDP_BYTES_PLAIN
    return min(max(announced, UDP_BYTES_PLAIN), UDP_BYTES_MAX)


def _response(query: Query) -> dns.message.Message:
    message = dns.message.from_wire(query.wire)
    return dns.message.make_response(message, recursion_available=True, our_payload=UDP_BYTES_MAX, pad=0)


def _write(response: dns.message.Message, query: Query) -> bytes:
    return response.to_wire(max_size=query.payload_max, prefer_truncation=True)


def _outside_name(query: Query) -> dns.name.Name:
    assert query.may_be_asked_outside
    return dns.name.from_text(f"{query.host}.")


def _record_type(query: Query) -> dns.rdatatype.RdataType:
    return dns.rdatatype.RdataType.make(query.query_type)


def _answers(outside: dns.message.Message, query: Query, message_id: int) -> bool:
    if outside.id != message_id or not outside.flags & dns.flags.QR or outside.opcode() != dns.opcode.QUERY:
        return False
    if len(outside.question) != 1:
        return False
    question = outside.question[0]
    asked = (_outside_name(query), dns.rdataclass.IN, _record_type(query))
    return (question.name, question.rdclass, question.rdtype) == asked
