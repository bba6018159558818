"""A DNS question is about one name that a host can have, and no answer says more than was asked."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandhold.model.destination import DomainName, HostService
from sandhold.wire.dns_message import (
    build_answer,
    build_empty,
    build_error,
    build_outside_query,
    read_query,
    strip_answer,
)
from sandhold.wire.dns_question import (
    OUTSIDE_BYTES_MAX,
    OUTSIDE_TTL_MAX_S,
    UDP_BYTES_MAX,
    ErrorCode,
    MalformedQuery,
    Query,
    Transport,
)
from tests.unit.wire.peers import ARBITRARY

HEADER = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
EDNS_HEADER = HEADER[:-1] + b"\x01"
EXAMPLE = b"\x07eXample\x03com\x00"
IN_A = b"\x00\x01\x00\x01"
A_RECORD = b"\xc0\x0c" + IN_A + bytes(4) + b"\x00\x04\x01\x02\x03\x04"
GLIBC_A = HEADER + EXAMPLE + IN_A
DIG_OPT = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x0c\x00\x0a\x00\x08\x8f\x1b\x4c\x77\x01\x02\x03\x04"
DIG_A = EDNS_HEADER + EXAMPLE + IN_A + DIG_OPT


def name(*labels: bytes) -> bytes:
    """Write a name."""
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def ask(text: str, query_type: str = "A", *, payload: int | None = None, transport: Transport = Transport.UDP) -> Query:
    """Return the question of a stub resolver."""
    message = dns.message.make_query(text, query_type)
    if payload is not None:
        message.use_edns(0, 0, payload)
    query = read_query(message.to_wire(), transport)
    assert isinstance(query, Query)
    return query


def outside(query: Query, *records: str, message_id: int = 7, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> bytes:
    """Write a resolver's answer to our question; a record is `name ttl type data`."""
    response = dns.message.make_response(dns.message.from_wire(build_outside_query(query, message_id)))
    response.set_rcode(rcode)
    for record in records:
        owner, ttl, record_type, data = record.split(" ", 3)
        response.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", record_type, data))
    return response.to_wire()


REFUSED: dict[str, tuple[bytes, int | None]] = {
    "an answer is not answered": (b"\x12\x34\x81\x80" + GLIBC_A[4:], None),
    "half a header is not answered": (GLIBC_A[:11], None),
    "nothing is not answered": (b"", None),
    "no question": (HEADER[:5] + b"\x00" + HEADER[6:], 1),
    "two questions": (HEADER[:5] + b"\x02" + HEADER[6:] + (EXAMPLE + IN_A) * 2, 1),
    "65535 questions": (HEADER[:4] + b"\xff\xff" + HEADER[6:] + EXAMPLE + IN_A, 1),
    "a question with an answer in it": (
        HEADER[:7]
        + b"\x01"
        + HEADER[8:]
        + EXAMPLE
        + IN_A
        + b"\xc0\x0c"
        + IN_A
        + bytes(4)
        + b"\x00\x04\x01\x02\x03\x04",
        1,
    ),
    "two additional records": (HEADER[:-1] + b"\x02" + EXAMPLE + IN_A + DIG_OPT + DIG_OPT, 1),
    "an additional record that is not EDNS": (
        EDNS_HEADER + EXAMPLE + IN_A + A_RECORD,
        1,
    ),
    "a signed question": (
        EDNS_HEADER + EXAMPLE + IN_A + b"\x00\x00\xfa\x00\xff" + bytes(4) + b"\x00\x10" + bytes(16),
        1,
    ),
    "a name that ends early": (HEADER + b"\x07exam", 1),
    "a name that points at itself": (HEADER + b"\xc0\x0c" + IN_A, 1),
    "a name that points forward": (HEADER + b"\xc0\x20" + IN_A + bytes(20), 1),
    "a label of an unknown kind": (HEADER + b"\x40a\x00" + IN_A, 1),
    "a name longer than 255 bytes": (HEADER + name(*[b"a" * 60] * 5) + IN_A, 1),
    "bytes behind the question": (GLIBC_A + b"x", 1),
    "a message above 4096 bytes": (GLIBC_A + bytes(UDP_BYTES_MAX), 1),
    "the class CHAOS": (HEADER + EXAMPLE + b"\x00\x10\x00\x03", 4),
    "the class ANY": (HEADER + EXAMPLE + b"\x00\x01\x00\xff", 4),
    "an update": (b"\x12\x34\x28\x00" + GLIBC_A[4:], 4),
    "a notification": (b"\x12\x34\x20\x00" + GLIBC_A[4:], 4),
    "a later version of EDNS": (EDNS_HEADER + EXAMPLE + IN_A + b"\x00\x00\x29\x04\xd0\x00\x01\x00\x00\x00\x00", 16),
}


@pytest.mark.parametrize(("data", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_question_is_refused(data: bytes, code: int | None) -> None:
    """A message that is not exactly one question gets an error code, and what is no question gets nothing."""
    refused = read_query(data)
    assert isinstance(refused, MalformedQuery)
    if code is None:
        assert refused.reply is None
        return
    assert refused.reply is not None
    reply = dns.message.from_wire(refused.reply)
    assert (reply.id, reply.rcode(), reply.answer) == (0x1234, code, [])
    assert reply.flags & dns.flags.QR


NO_HOSTS = {
    "the root": name(),
    "a single label": name(b"intranet"),
    "an address": name(b"192", b"0", b"2", b"1"),
    "the loopback address": name(b"127", b"0", b"0", b"1"),
    "an IPv6 address as a label": name(b"::1"),
    "an old spelling of an address": name(b"0x7f", b"1"),
    "a dot inside a label": name(b"evil.test", b"good", b"test"),
    "an address inside a label": name(b"127.0.0.1"),
    "a NUL inside a label": name(b"evil\0", b"good", b"test"),
    "a byte above ASCII": name(b"\xe9vil", b"test"),
    "a space": name(b"a b", b"test"),
    "a hyphen first": name(b"-a", b"test"),
    "an asterisk": name(b"*", b"test"),
    "an escape": name(b"\x1b[2J", b"test"),
}


@pytest.mark.parametrize("labels", NO_HOSTS.values(), ids=NO_HOSTS)
def test_names_that_no_host_can_have(labels: bytes) -> None:
    """Such a question is read, so that it can be answered and recorded, but it names no host."""
    query = read_query(HEADER + labels + IN_A)
    assert isinstance(query, Query)
    assert query.host is None
    assert not query.may_be_asked_outside
    assert query.text.isascii()
    assert query.text.isprintable()


HOSTS = {
    "case is folded": (name(b"GooD", b"Test"), DomainName("good.test")),
    "underscores are a name's": (name(b"_sip", b"_tcp", b"good", b"test"), DomainName("_sip._tcp.good.test")),
    "the user's machine": (name(b"host", b"docker", b"internal"), HostService()),
    "the user's machine by its own name": (name(b"LocalHost"), HostService()),
}


@pytest.mark.parametrize(("labels", "host"), HOSTS.values(), ids=HOSTS)
def test_names_are_hosts(labels: bytes, host: DomainName | HostService) -> None:
    """The name becomes the canonical host."""
    query = read_query(HEADER + labels + IN_A)
    assert isinstance(query, Query)
    assert query.host == host


def test_real_questions_are_read() -> None:
    """What glibc and dig send is read; EDNS says how large the answer may be."""
    plain, edns = read_query(GLIBC_A), read_query(DIG_A)
    assert isinstance(plain, Query)
    assert isinstance(edns, Query)
    assert (plain.id, plain.host, plain.text) == (0x1234, DomainName("example.com"), "eXample.com")
    assert (plain.type_text, plain.payload_max, edns.payload_max) == ("A", 512, 1232)
    assert (plain.wants_ipv4, plain.wants_ipv6) == (True, False)
    tcp = read_query(GLIBC_A, Transport.TCP)
    assert isinstance(tcp, Query)
    assert tcp.payload_max == 65535


def test_a_small_or_large_payload_is_brought_into_bounds() -> None:
    """EDNS can say neither less than 512 bytes nor more than ours."""
    assert ask("good.test", payload=100).payload_max == 512
    assert ask("good.test", payload=65535).payload_max == UDP_BYTES_MAX


@pytest.mark.parametrize("data", [GLIBC_A, DIG_A], ids=["glibc", "dig"])
def test_no_part_of_a_question_is_one(data: bytes) -> None:
    """A cut message is never read as a question."""
    for size in range(len(data)):
        assert isinstance(read_query(data[:size]), MalformedQuery)


ADDRESSES = (IPv4Address("198.18.0.1"), IPv6Address("fd5b:78:1::1"))


@pytest.mark.parametrize(("query_type", "expected"), [("A", "198.18.0.1"), ("AAAA", "fd5b:78:1::1")])
def test_addresses_of_the_type_asked_for(query_type: str, expected: str) -> None:
    """An answer has the addresses of the type asked for, the time to live, and the question as it was spelt."""
    query = ask("GooD.Test", query_type)
    response = dns.message.from_wire(build_answer(query, ADDRESSES, 30))
    assert (response.id, response.rcode()) == (query.id, dns.rcode.NOERROR)
    assert response.flags & dns.flags.RA
    assert str(response.question[0].name) == "GooD.Test."
    ((answer,),) = (response.answer,)
    assert (answer.ttl, [record.to_text() for record in answer]) == (30, [expected])


def test_no_address_of_that_type_is_an_empty_answer() -> None:
    """A name without an address of the type asked for exists: NOERROR without records."""
    for data in (
        build_answer(ask("good.test", "AAAA"), ADDRESSES[:1], 30),
        build_answer(ask("a.test", "MX"), ADDRESSES, 1),
    ):
        response = dns.message.from_wire(data)
        assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])
    assert dns.message.from_wire(build_empty(ask("good.test", "TXT"))).rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize("code", ErrorCode)
def test_errors(code: ErrorCode) -> None:
    """An error has the question and its code, with EDNS only when it was asked with it."""
    plain = dns.message.from_wire(build_error(ask("good.test"), code))
    assert (plain.rcode(), plain.edns, plain.answer, len(plain.question)) == (code.value, -1, [], 1)
    assert dns.message.from_wire(build_error(ask("good.test", payload=1232), code)).edns == 0


def test_what_does_not_fit_is_truncated() -> None:
    """An answer over UDP is never larger than the client takes and says that it was cut; over TCP it is whole."""
    many = [IPv4Address("198.18.0.0") + number for number in range(1, 100)]
    for payload, size_max in ((None, 512), (1232, 1232)):
        cut = build_answer(ask("good.test", payload=payload), many, 30)
        assert len(cut) <= size_max
        assert dns.message.from_wire(cut).flags & dns.flags.TC
    whole = dns.message.from_wire(build_answer(ask("good.test", transport=Transport.TCP), many, 30))
    assert not whole.flags & dns.flags.TC
    assert len(whole.answer[0]) == 99


def test_the_question_outside_carries_nothing_of_the_sandbox() -> None:
    """Outside, the canonical name is asked for under our id, without the spelling and options of the sandbox."""
    query = read_query(EDNS_HEADER + EXAMPLE + b"\x00\x10\x00\x01" + DIG_OPT)
    assert isinstance(query, Query)
    assert b"\x8f\x1b\x4c\x77" in query.wire
    asked = dns.message.from_wire(build_outside_query(query, 77))
    assert (asked.id, asked.options, str(asked.question[0])) == (77, (), "example.com. IN TXT")


NEVER_ASKED = ["A", "AAAA", "HTTPS", "SVCB", "ANY", "AXFR", "IXFR", "TYPE0", "OPT", "TSIG"]


@pytest.mark.parametrize("query_type", NEVER_ASKED)
def test_types_that_are_never_asked_outside(query_type: str) -> None:
    """Addresses, service bindings and types that are no data are never asked for outside."""
    query = read_query(HEADER + EXAMPLE + int(dns.rdatatype.from_text(query_type)).to_bytes(2, "big") + b"\x00\x01")
    assert isinstance(query, Query)
    assert not query.may_be_asked_outside


@pytest.mark.parametrize("query_type", ["MX", "TXT", "SRV", "CAA", "PTR", "NS", "TYPE65280"])
def test_types_that_may_be_asked_outside(query_type: str) -> None:
    """Other types may be asked for outside, also those without a name."""
    assert ask("good.test", query_type).may_be_asked_outside
    assert not ask("localhost", query_type).may_be_asked_outside


def test_an_answer_from_outside_is_brought_inside() -> None:
    """Records of the type and aliases are kept under the sandbox's own id and spelling, for a bounded time."""
    query = ask("GOOD.test", "TXT")
    answer = outside(query, "good.test. 86400 CNAME x.test.", 'x.test. 5 TXT "a"', "x.test. 5 A 192.0.2.1")
    stripped = strip_answer(query, answer, 7)
    assert stripped is not None
    response = dns.message.from_wire(stripped)
    assert response.id == query.id
    assert str(response.question[0].name) == "GOOD.test."
    assert [rrset.to_text() for rrset in response.answer] == [
        f"GOOD.test. {OUTSIDE_TTL_MAX_S} IN CNAME x.test.",
        'x.test. 5 IN TXT "a"',
    ]


@pytest.mark.parametrize("query_type", ["HTTPS", "SVCB"])
def test_service_bindings_come_back_empty(query_type: str) -> None:
    """No key for an encrypted ClientHello and no address hint reaches the sandbox."""
    query = ask("good.test", query_type)
    response = dns.message.make_response(dns.message.from_wire(query.wire))
    record = "1 . ech=AAT+DQAA ipv4hint=192.0.2.1"
    response.answer.append(dns.rrset.from_text("good.test.", 30, "IN", query_type, record))
    stripped = strip_answer(query, response.to_wire(), query.id)
    assert stripped is not None
    assert (dns.message.from_wire(stripped).rcode(), dns.message.from_wire(stripped).answer) == (dns.rcode.NOERROR, [])


RCODES = {
    "no such name is kept": (dns.rcode.NXDOMAIN, dns.rcode.NXDOMAIN),
    "a refusal is a failure": (dns.rcode.REFUSED, dns.rcode.SERVFAIL),
    "an unknown code is a failure": (dns.rcode.BADVERS, dns.rcode.SERVFAIL),
}


@pytest.mark.parametrize(("theirs", "ours"), RCODES.values(), ids=RCODES)
def test_codes_from_outside(theirs: dns.rcode.Rcode, ours: dns.rcode.Rcode) -> None:
    """Only whether the name exists is passed on; whatever else went wrong is a failure."""
    query = ask("good.test", "TXT")
    stripped = strip_answer(query, outside(query, rcode=theirs), 7)
    assert stripped is not None
    assert dns.message.from_wire(stripped).rcode() == ours


def test_truncation_outside_is_told_inside() -> None:
    """When the answer was cut outside, the sandbox is told, so that it asks again over TCP."""
    query = ask("good.test", "TXT")
    answer = bytearray(outside(query))
    answer[2] |= 0x02
    stripped = strip_answer(query, bytes(answer), 7)
    assert stripped is not None
    assert dns.message.from_wire(stripped).flags & dns.flags.TC


def no_answers() -> dict[str, tuple[Query, bytes]]:
    """Return messages that are no answer to the question."""
    query = ask("good.test", "TXT")
    answer = outside(query, 'good.test. 5 TXT "a"')
    no_question = dns.message.make_response(dns.message.from_wire(build_outside_query(query, 7)))
    no_question.question = []
    return {
        "another id": (query, outside(query, message_id=8)),
        "another name": (query, outside(ask("evil.test", "TXT"))),
        "another type": (query, outside(ask("good.test", "MX"))),
        "no question": (query, no_question.to_wire()),
        "the question itself": (query, build_outside_query(query, 7)),
        "a cut answer": (query, answer[:-1]),
        "bytes behind the answer": (query, answer + b"x"),
        "nothing": (query, b""),
        "a message too large to decode": (query, answer + bytes(OUTSIDE_BYTES_MAX)),
        "an address, which is never asked outside": (
            ask("good.test", "A"),
            b"\x00\x07\x81\x80" + ask("good.test", "A").wire[4:],
        ),
    }


@pytest.mark.parametrize(("query", "answer"), no_answers().values(), ids=no_answers())
def test_what_is_no_answer_is_dropped(query: Query, answer: bytes) -> None:
    """A message with another id or question, or that cannot be read, is no answer."""
    assert strip_answer(query, answer, 7) is None


@ARBITRARY
@given(st.binary(max_size=80), st.integers(0, len(DIG_A)), st.sampled_from(Transport))
def test_arbitrary_questions_are_read_or_refused(noise: bytes, kept: int, transport: Transport) -> None:
    """Nothing is raised whatever comes, and every question that is read can be answered within its bound."""
    for data in (noise, HEADER + noise, DIG_A[:kept] + noise):
        query = read_query(data, transport)
        if isinstance(query, MalformedQuery):
            assert query.reply is None or query.reply[:2] == data[:2]
            continue
        assert query.text.isascii()
        for answer in (build_answer(query, ADDRESSES, 30), build_empty(query), build_error(query, ErrorCode.NXDOMAIN)):
            assert len(answer) <= query.payload_max
            assert dns.message.from_wire(answer).id == query.id


QUERY = ask("good.test", "TXT")
ANSWER = outside(QUERY, 'good.test. 5 TXT "a"', "good.test. 5 CNAME b.test.")


@ARBITRARY
@given(st.binary(max_size=120), st.integers(0, len(ANSWER)), st.integers(0, 5))
def test_arbitrary_answers_are_stripped_or_dropped(noise: bytes, kept: int, records: int) -> None:
    """Nothing is raised whatever a resolver sends, and nothing but records of the type and aliases comes through."""
    counted = ANSWER[:7] + bytes([records]) + ANSWER[8:]
    for data in (noise, counted, counted[:kept] + noise, counted[:40] + noise, ANSWER[:kept] + noise + ANSWER[kept:]):
        stripped = strip_answer(QUERY, data, 7)
        if stripped is None:
            continue
        types = {rrset.rdtype for rrset in dns.message.from_wire(stripped).answer}
        assert types <= {dns.rdatatype.TXT, dns.rdatatype.CNAME, dns.rdatatype.DNAME}


NOT_PLAIN = {
    "another type": HEADER + EXAMPLE + b"\x00\x10\x00\x01",
    "another class": HEADER + EXAMPLE + b"\x00\x01\x00\x03",
    "no recursion desired": GLIBC_A[:2] + b"\x00" + GLIBC_A[3:],
    "an authentic data bit": GLIBC_A[:3] + b"\x20" + GLIBC_A[4:],
    "EDNS": DIG_A,
    "a dot inside a label": HEADER + name(b"a.b", b"com") + IN_A,
    "a byte that is escaped": HEADER + name(b"a b", b"com") + IN_A,
    "a pointer": HEADER + b"\x01a\xc0\x0c" + IN_A,
    "a label of 64 bytes": HEADER + name(b"a" * 64, b"com") + IN_A,
    "a name of 256 bytes": HEADER + name(*[b"a" * 62] * 4, b"aa") + IN_A,
    "the root": HEADER + b"\0" + IN_A,
    "bytes behind it": GLIBC_A + b"\0",
    "a byte too few": GLIBC_A[:-1],
    "a name without an end": HEADER + EXAMPLE[:-1],
    "nothing behind the header": HEADER,
}


@pytest.mark.parametrize("data", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_what_is_not_plain_is_read_whole(data: bytes) -> None:
    """Only a header and one question for an address, written plainly, is read without dnspython."""
    query = read_query(data)
    assert isinstance(query, MalformedQuery) or not query.is_plain


_labels = st.lists(st.binary(min_size=1, max_size=4) | st.from_regex(rb"\A[a-zA-Z0-9_-]{1,63}\Z"), max_size=6)
_ends = st.sampled_from([IN_A, b"\x00\x1c\x00\x01", b"\x00\x0f\x00\x01", b"\x00\x01\x00\x03", b""])
_plain_like = st.builds(
    lambda flags, labels, end, behind: b"\x12\x34" + flags + HEADER[4:] + name(*labels) + end + behind,
    st.sampled_from([b"\x01\x00", b"\x00\x00", b"\x01\x20"]),
    _labels,
    _ends,
    st.sampled_from([b"", b"", b"", b"\0", b"\xc0\x0c"]),
)


@given(_plain_like, st.sampled_from(Transport), st.sampled_from([(), (4,), (6,), (4, 6)]))
def test_a_plain_question_is_what_dnspython_says(
    data: bytes, transport: Transport, given_versions: tuple[int, ...]
) -> None:
    """Read and answered without dnspython, a question is the same, and its answer byte for byte."""
    query = read_query(data, transport)
    if isinstance(query, MalformedQuery) or not query.is_plain:
        return
    message = dns.message.from_wire(data)
    (question,) = message.question
    assert (query.id, query.text) == (message.id, question.name.to_text(omit_final_dot=True))
    assert (query.query_type, query.type_text) == (question.rdtype, dns.rdatatype.to_text(question.rdtype))
    addresses: dict[int, IPv4Address | IPv6Address] = {4: IPv4Address("198.18.0.1"), 6: IPv6Address("2001:2::1")}
    answer = dns.message.make_response(message, recursion_available=True, our_payload=UDP_BYTES_MAX, pad=0)
    for version in given_versions:
        if version == (4 if query.wants_ipv4 else 6):
            record = (question.name, 60, question.rdclass, question.rdtype, str(addresses[version]))
            answer.answer.append(dns.rrset.from_text(*record))
    built = build_answer(query, [addresses[version] for version in given_versions], 60)
    assert built == answer.to_wire(max_size=query.payload_max)


def test_the_common_questions_are_plain() -> None:
    """What the C library asks needs no more than that."""
    for query_type in ("A", "AAAA"):
        message = dns.message.make_query("a-1.Example_2.com", query_type)
        query = read_query(message.to_wire())
        assert isinstance(query, Query)
        assert query.is_plain
        assert query.host == DomainName("a-1.example_2.com")
