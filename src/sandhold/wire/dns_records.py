"""DNS messages of every shape, by dnspython: two megabytes and 50 ms to load, so `dns_message.py` does when it has to.

The rules are those of that module.
"""

from __future__ import annotations

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

from sandhold.wire.dns_question import (
    HEADER_BYTES,
    OUTSIDE_BYTES_MAX,
    OUTSIDE_TTL_MAX_S,
    OUTSIDE_UDP_PAYLOAD,
    SERVICE_TYPES,
    TCP_BYTES_MAX,
    UDP_BYTES_MAX,
    UDP_BYTES_PLAIN,
    ErrorCode,
    MalformedQuery,
    Query,
    Transport,
    parse_host,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv6Address

    from sandhold.model.destination import DomainName, HostService

_QR: Final = 0x8000
_OPCODE_MASK: Final = 0x7800
_RD: Final = 0x0100
_ALIASES: Final = frozenset({dns.rdatatype.CNAME, dns.rdatatype.DNAME})


def read(data: bytes, transport: Transport) -> Query | MalformedQuery:
    """Read one DNS message as `dns_message.read_query` does."""
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


def answer(query: Query, addresses: Sequence[IPv4Address | IPv6Address], ttl: int) -> bytes:
    """Answer as `dns_message.build_answer` does."""
    response = _response(query)
    version = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}.get(_record_type(query))
    wanted = [str(address) for address in addresses if address.version == version]
    if wanted:
        name = response.question[0].name
        response.answer.append(dns.rrset.from_text(name, ttl, dns.rdataclass.IN, _record_type(query), *wanted))
    return _write(response, query)


def pointer(query: Query, name: str, ttl: int) -> bytes:
    """Answer PTR with a name, `ttl` in seconds."""
    response = _response(query)
    owner = response.question[0]
    response.answer.append(dns.rrset.from_text(owner.name, ttl, owner.rdclass, owner.rdtype, f"{name}."))
    return _write(response, query)


def empty(query: Query) -> bytes:
    """Answer NOERROR without a record: the name exists, that type does not."""
    return _write(_response(query), query)


def error(query: Query, code: ErrorCode) -> bytes:
    """Answer with an error code."""
    response = _response(query)
    response.set_rcode(dns.rcode.Rcode(code.value))
    return _write(response, query)


def outside_query(query: Query, message_id: int) -> bytes:
    """Ask a resolver outside the same under `message_id`: the canonical name, and no EDNS option of the sandbox.

    Only for a query that `may_be_asked_outside`.
    """
    message = dns.message.QueryMessage(id=message_id)
    message.flags |= dns.flags.RD
    message.question.append(dns.rrset.RRset(_outside_name(query), dns.rdataclass.IN, _record_type(query)))
    message.use_edns(0, 0, OUTSIDE_UDP_PAYLOAD)
    return message.to_wire()


def strip(query: Query, answer: bytes, message_id: int) -> bytes | None:
    """Bring a resolver's answer to the sandbox's question by rules 4 to 6, None when it is no answer to it."""
    if query.query_type in SERVICE_TYPES:
        return empty(query)
    if not query.may_be_asked_outside or len(answer) > OUTSIDE_BYTES_MAX:
        return None
    try:
        outside = dns.message.from_wire(answer)
    except dns.exception.DNSException:
        return None
    if not _answers(outside, query, message_id):
        return None
    if outside.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return error(query, ErrorCode.SERVFAIL)
    response = _response(query)
    response.set_rcode(outside.rcode())
    response.flags |= outside.flags & dns.flags.TC
    for rrset in outside.answer:
        if rrset.rdclass == dns.rdataclass.IN and (rrset.rdtype == query.query_type or rrset.rdtype in _ALIASES):
            rrset.ttl = min(rrset.ttl, OUTSIDE_TTL_MAX_S)
            response.answer.append(rrset)
    return _write(response, query)


def _check_header(data: bytes, transport: Transport) -> MalformedQuery | None:
    """The part of rules 1 and 2 that the first twelve bytes decide, before anything is decoded."""
    if len(data) < HEADER_BYTES:
        return MalformedQuery("shorter than a DNS header", None)
    flags, questions, answers, authorities, additionals = (
        int.from_bytes(data[at : at + 2], "big") for at in range(2, HEADER_BYTES, 2)
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
    return None if any(b"." in label for label in labels) else parse_host(b".".join(labels))


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
