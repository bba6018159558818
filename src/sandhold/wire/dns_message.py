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
others are dnspython's, which is loaded when the first of them comes: many a sandbox never asks one.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

from sandhold.model.destination import LABEL_BYTES_MAX
from sandhold.wire.dns_question import (
    AAAA,
    HEADER_BYTES,
    TCP_BYTES_MAX,
    UDP_BYTES_PLAIN,
    A,
    Query,
    Transport,
    parse_host,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv6Address

    from sandhold.wire.dns_question import ErrorCode, MalformedQuery

_RD: Final = 0x0100
_IN: Final = 1
_PLAIN_HEADER: Final = struct.pack(">5H", _RD, 1, 0, 0, 0)  # behind the id: recursion desired, one question, no more
_PLAIN_NAME = re.compile(rb"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_PLAIN_TYPES: Final = {b"\0\0\1\0\1": (A, "A"), b"\0\0\x1c\0\1": (AAAA, "AAAA")}
"""The end of a plain question: of its name, its type, and class IN."""
_NAME_WIRE_BYTES_MAX: Final = 255  # RFC 1035 section 2.3.4
_ANSWERED: Final = 0x8180  # QR, RD as it was asked, RA
_NAME_IN_QUESTION: Final = 0xC000 | HEADER_BYTES  # a pointer to it, RFC 1035 section 4.1.4


def read_query(data: bytes, transport: Transport = Transport.UDP) -> Query | MalformedQuery:
    """Read one DNS message of the sandbox (over TCP without its two length bytes) by rules 1 to 3; raises nothing."""
    plain = _read_plain(data, transport)
    if plain is not None:
        return plain
    from sandhold.wire import dns_records  # noqa: PLC0415  two megabytes, see above

    return dns_records.read(data, transport)


def build_answer(query: Query, addresses: Sequence[IPv4Address | IPv6Address], ttl: int) -> bytes:
    """Answer with those of `addresses` that are of the type asked for, `ttl` in seconds; without any, the answer is
    empty."""
    if query.is_plain:
        wanted_packed = [each.packed for each in addresses if each.version == (4 if query.wants_ipv4 else 6)]
        if len(wanted_packed) <= 1:
            return _write_plain(query, wanted_packed, ttl)
    from sandhold.wire import dns_records  # noqa: PLC0415  two megabytes, see above

    return dns_records.answer(query, addresses, ttl)


def build_pointer(query: Query, name: str, ttl: int) -> bytes:
    """Answer a reverse question with the name that the address has here, `ttl` in seconds."""
    from sandhold.wire import dns_records  # noqa: PLC0415  two megabytes, see above

    return dns_records.pointer(query, name, ttl)


def build_empty(query: Query) -> bytes:
    """Answer NOERROR without a record: the name exists, that type does not."""
    from sandhold.wire import dns_records  # noqa: PLC0415  two megabytes, see above

    return dns_records.empty(query)


def build_error(query: Query, code: ErrorCode) -> bytes:
    """Answer with an error code."""
    from sandhold.wire import dns_records  # noqa: PLC0415  two megabytes, see above

    return dns_records.error(query, code)


def build_outside_query(query: Query, message_id: int) -> bytes:
    """Ask a resolver outside the same under `message_id`: the canonical name, and no EDNS option of the sandbox.

    Only for a query that `may_be_asked_outside`.
    """
    from sandhold.wire import dns_records  # noqa: PLC0415  two megabytes, see above

    return dns_records.outside_query(query, message_id)


def strip_answer(query: Query, answer: bytes, message_id: int) -> bytes | None:
    """Bring a resolver's answer to the sandbox's question by rules 4 to 6, None when it is no answer to it."""
    from sandhold.wire import dns_records  # noqa: PLC0415  two megabytes, see above

    return dns_records.strip(query, answer, message_id)


def _read_plain(data: bytes, transport: Transport) -> Query | None:
    """Read the question that nearly every program asks, None when it is any other or could be read another way."""
    if data[2:HEADER_BYTES] != _PLAIN_HEADER:
        return None
    labels = []
    at = HEADER_BYTES
    while at < len(data) and data[at]:  # more than 63 is a pointer, and what it takes is no plain name
        labels.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    asked = _PLAIN_TYPES.get(data[at:])
    name = b".".join(labels)
    if asked is None or at + 1 - HEADER_BYTES > _NAME_WIRE_BYTES_MAX or not _PLAIN_NAME.fullmatch(name):
        return None
    if name.count(b".") != len(labels) - 1 or any(len(label) > LABEL_BYTES_MAX for label in labels):
        return None
    return Query(
        id=int.from_bytes(data[:2], "big"),
        host=parse_host(name),
        text=name.decode("ascii"),
        query_type=asked[0],
        type_text=asked[1],
        transport=transport,
        payload_max=TCP_BYTES_MAX if transport is Transport.TCP else UDP_BYTES_PLAIN,
        wire=data,
        is_plain=True,
    )


def _write_plain(query: Query, packed: Sequence[bytes], ttl: int) -> bytes:
    """Answer a plain question with one address or none; that always fits."""
    header = struct.pack(">6H", query.id, _ANSWERED, 1, len(packed), 0, 0)
    records = [
        struct.pack(">HHHIH", _NAME_IN_QUESTION, query.query_type, _IN, ttl, len(each)) + each for each in packed
    ]
    return b"".join((header, query.wire[HEADER_BYTES:], *records))
