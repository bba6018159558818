"""The resolver on real sockets, with a resolver of the host's behind it that writes down all it is asked."""

from __future__ import annotations

import socket
import time
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from sandhold.egress import lookups, nameserver, questions
from sandhold.egress.nameserver import Nameserver
from sandhold.model.decision import Reason
from tests.nameserving import PATIENCE_S, Desk, HostResolver, Loop, bind_both

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

ASK_AGAIN_S: Final = 1.0
UNUSED: Final = "127.0.0.1#1"  # nothing listens there: the kernel says so at once


class Inside(AbstractContextManager["Inside"]):
    """The resolver's sockets as a program inside has them, on loopback."""

    def __init__(self, *resolvers: str, posture: str = "balanced") -> None:
        self.desk = Desk(posture, resolvers)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.udp, listener = bind_both()
        self._stack.enter_context(self.udp)
        self._stack.enter_context(listener)
        self.port: int = self.udp.getsockname()[1]
        self._stack.enter_context(Loop(self.desk.reactor))
        serving = Nameserver(self.desk.gateway)
        self.desk.reactor.post(lambda: self._start(serving, listener))
        return self

    def _start(self, serving: Nameserver, listener: socket.socket) -> None:
        self.desk.reactor.spawn(serving.serve_udp(self.udp), "dns")
        self.desk.reactor.spawn(serving.serve_tcp(listener), "dns over tcp")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def ask(self, name: str, query_type: str = "A", *, transport: str = "udp") -> dns.message.Message:
        """Ask as a program does, with a new socket each time."""
        query = dns.message.make_query(name, query_type, use_edns=0, payload=1232)
        ask = dns.query.udp if transport == "udp" else dns.query.tcp
        return ask(query, "127.0.0.1", timeout=PATIENCE_S, port=self.port)

    def ask_until_answered(self, name: str) -> dns.message.Message:
        """Ask for an address over UDP, again after a while: a datagram may be lost where the socket's queue is full."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            query = dns.message.make_query(name, "A")
            try:
                return dns.query.udp(query, "127.0.0.1", timeout=ASK_AGAIN_S, port=self.port)
            except dns.exception.Timeout:
                assert time.monotonic() < deadline, f"`{name}` was never answered"

    def connect(self) -> socket.socket:
        """A TCP connection to the resolver."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)


def texts(message: dns.message.Message) -> list[str]:
    """The data of every record of the answer."""
    return [str(item) for rrset in message.answer for item in rrset]


@pytest.fixture
def resolver() -> HostResolver:
    """A resolver that answers; entered by the tests that want to change its manner first."""
    return HostResolver()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_no_address_is_ever_asked_outside(resolver: HostResolver, transport: str) -> None:
    """A and AAAA are answered from inside, for allowed and denied names, under any posture."""
    answers = []
    for posture in ("balanced", "allow-all", "deny-all"):
        with resolver if posture == "balanced" else HostResolver() as seen, Inside(seen.address, posture=posture) as at:
            for name in ("allowed.test", "denied.test"):
                answers += [texts(at.ask(name, kind, transport=transport)) for kind in ("A", "AAAA")]
            asked = list(seen.questions)
        assert asked == []

    assert answers == 3 * [["198.18.0.1"], ["fd5b:78:1::1"], ["198.18.0.2"], ["fd5b:78:1::2"]]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_denied_name_is_never_asked_outside(resolver: HostResolver, transport: str) -> None:
    """Whatever the type, a denied name leaves nothing behind but a record and an empty answer."""
    with resolver, Inside(resolver.address) as inside:
        answers = [
            inside.ask(name, kind, transport=transport)
            for name in ("data.denied.test", "below.allowed.test", "ssh-only.example")
            for kind in ("TXT", "MX", "SRV", "NS", "CNAME", "SOA", "CAA", "HTTPS", "SVCB", "NULL", "TYPE65280", "PTR")
        ]
        asked = list(resolver.questions)

    assert asked == []
    assert all(not answer.answer for answer in answers)
    assert all(not record.asked_outside for record in inside.desk.records)
    assert len(inside.desk.records) == 36


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_an_allowed_name_is_asked_once_it_is_on_record(resolver: HostResolver, transport: str) -> None:
    """The host's resolver is asked, under our id, and the answer comes back under the program's."""
    with resolver, Inside(resolver.address) as inside:
        answer = inside.ask("Allowed.TEST", "TXT", transport=transport)

    assert resolver.questions == [("allowed.test.", "TXT", "udp")]
    assert texts(answer) == ['"plain"']
    assert [(record.name, record.query_type, record.asked_outside) for record in inside.desk.records] == [
        ("allowed.test", "TXT", True)
    ]


def test_what_cannot_be_recorded_is_not_asked(resolver: HostResolver) -> None:
    """On a full disk the answer is SERVFAIL and nothing leaves."""
    with resolver, Inside(resolver.address) as inside:
        inside.desk.is_disk_full = True
        answer = inside.ask("allowed.test", "TXT")
        asked = list(resolver.questions)

    assert asked == []
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert [record.decision.reason for record in inside.desk.records] == [Reason.RECORD_UNAVAILABLE]


@pytest.mark.parametrize("manner", ["garbage", "wrong-id", "wrong-question", "other-source"])
def test_an_answer_to_another_question_is_ignored(manner: str) -> None:
    """Datagrams with another id, question or sender change nothing: the true answer is waited for."""
    with HostResolver(manner) as resolver, Inside(resolver.address) as inside:
        answer = inside.ask("allowed.test", "TXT")

    assert "forged" not in str(answer)
    assert len(texts(answer)) == 1


def test_only_the_records_asked_for_come_back() -> None:
    """Addresses that nobody asked for do not pass."""
    with HostResolver("with-extras") as resolver, Inside(resolver.address) as inside:
        answer = inside.ask("allowed.test", "TXT")

    assert "10.0.0.9" not in str(answer)
    assert texts(answer) == ['"with-extras"']


def test_a_truncated_answer_is_fetched_over_tcp() -> None:
    """A large answer is whole over TCP, and marked as truncated over UDP so that the program comes back."""
    with HostResolver("truncated") as resolver, Inside(resolver.address) as inside:
        over_udp = inside.ask("allowed.test", "TXT")
        over_tcp = inside.ask("allowed.test", "TXT", transport="tcp")

    assert resolver.questions == 2 * [("allowed.test.", "TXT", "udp"), ("allowed.test.", "TXT", "tcp")]
    assert over_udp.flags & dns.flags.TC
    assert len(over_udp.to_wire()) <= 1232
    assert len(texts(over_tcp)) == 40


@pytest.mark.parametrize("manner", ["silent", "servfail"])
def test_the_second_resolver_stands_in(manner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that is silent, unreachable or failing is passed over for the next."""
    monkeypatch.setattr(questions, "TRY_S", 0.2)
    with HostResolver(manner) as first, HostResolver() as second:
        with Inside(first.address, second.address) as inside:
            assert texts(inside.ask("allowed.test", "TXT")) == ['"plain"']
        with Inside(UNUSED, second.address) as inside:
            assert texts(inside.ask("allowed.test", "TXT")) == ['"plain"']

    assert first.questions == [("allowed.test.", "TXT", "udp")]
    assert len(second.questions) == 2


def test_without_a_resolver_the_answer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """None at all, none that answers, or none that is an address: SERVFAIL, at most two asked."""
    monkeypatch.setattr(questions, "TRY_S", 0.2)
    with HostResolver("silent") as silent, HostResolver() as third:
        for resolvers in ((), ("no address",), (UNUSED, silent.address, third.address)):
            with Inside(*resolvers) as inside:
                assert inside.ask("allowed.test", "TXT").rcode() == dns.rcode.SERVFAIL

    assert third.questions == []


def test_ids_and_ports_cannot_be_guessed(resolver: HostResolver) -> None:
    """Each question has an id and a source port of its own."""
    with resolver, Inside(resolver.address, posture="allow-all") as inside:
        for number in range(12):
            inside.ask(f"n{number}.test", "TXT")

    assert len(set(resolver.ids)) >= 11
    assert len(set(resolver.ports)) >= 6
    assert len({after - before for before, after in zip(resolver.ids, resolver.ids[1:], strict=False)}) >= 6


def test_questions_outside_are_bounded_and_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the host's resolver is silent, further questions are REFUSED and addresses are answered as ever."""
    monkeypatch.setattr(lookups, "QUESTIONS_MAX", 2)
    with HostResolver("silent") as resolver, Inside(resolver.address, posture="allow-all") as inside:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
            program.settimeout(PATIENCE_S)
            for number in range(3):
                program.sendto(dns.message.make_query(f"n{number}.test", "TXT").to_wire(), ("127.0.0.1", inside.port))
            refused = dns.message.from_wire(program.recv(4096))
        address = inside.ask("other.test", "A")

    assert refused.rcode() == dns.rcode.REFUSED
    assert refused.question[0].name.to_text() == "n2.test."
    assert texts(address) == ["198.18.0.1"]
    assert Reason.LOOKUP_LIMIT in {record.decision.reason for record in inside.desk.records}


def test_broken_datagrams_harm_nobody() -> None:
    """After any number of them the next question is answered."""
    with Inside() as inside, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
        for data in (b"", b"\x00", bytes(12), b"\xff" * 512, bytes(9000)):
            for _ in range(50):
                program.sendto(data, ("127.0.0.1", inside.port))

        assert texts(inside.ask_until_answered("allowed.test")) == ["198.18.0.1"]


def framed(name: str) -> bytes:
    """A question as TCP carries it."""
    data = dns.message.make_query(name, "A").to_wire()
    return len(data).to_bytes(2, "big") + data


def receive(sock: socket.socket) -> dns.message.Message:
    """One answer as TCP carries it."""
    size = int.from_bytes(sock.recv(2, socket.MSG_WAITALL), "big")
    return dns.message.from_wire(sock.recv(size, socket.MSG_WAITALL))


def test_one_connection_carries_many_questions() -> None:
    """Questions sent together, cut anywhere, are answered in order."""
    with Inside() as inside, inside.connect() as sock:
        data = framed("a.test") + framed("b.test") + framed("a.test")
        sock.sendall(data[:1])
        sock.sendall(data[1:40])
        sock.sendall(data[40:])

        assert [texts(receive(sock)) for _ in range(3)] == [["198.18.0.1"], ["198.18.0.2"], ["198.18.0.1"]]


STALLS = {
    "nothing": b"",
    "half a length": b"\x00",
    "half a message": b"\x00\x40abc",
}


@pytest.mark.parametrize("data", STALLS.values(), ids=STALLS)
def test_a_stalled_connection_is_closed(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without a whole question ends at the deadline, without an answer."""
    monkeypatch.setattr(nameserver, "TCP_IDLE_S", 0.2)
    with Inside() as inside, inside.connect() as sock:
        sock.sendall(data)

        assert sock.recv(1) == b""


def test_a_connection_has_so_many_questions_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit the connection ends in order, and the program opens another."""
    monkeypatch.setattr(nameserver, "TCP_QUERIES_MAX", 2)
    with Inside() as inside, inside.connect() as sock:
        sock.sendall(framed("a.test") + framed("b.test"))

        assert [texts(receive(sock)) for _ in range(2)] == [["198.18.0.1"], ["198.18.0.2"]]
        assert sock.recv(1) == b""


def test_an_announced_giant_is_closed_unread() -> None:
    """A length that no question has ends the connection at once."""
    with Inside() as inside, inside.connect() as sock:
        sock.sendall(b"\xff\xff" + bytes(100))
        try:
            received = sock.recv(1)
        except ConnectionResetError:
            received = b""

        assert received == b""


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection too many is reset; when an older one ends there is room again."""
    monkeypatch.setattr(nameserver, "TCP_CONNECTIONS_MAX", 2)
    with Inside() as inside, inside.connect() as first, inside.connect() as second:
        for sock in (first, second):
            sock.sendall(framed("a.test"))
            receive(sock)
        with pytest.raises(ConnectionResetError), inside.connect() as third:
            third.recv(1)

        first.shutdown(socket.SHUT_WR)
        assert first.recv(1) == b""
        with inside.connect() as fourth:
            fourth.sendall(framed("b.test"))
            assert texts(receive(fourth)) == ["198.18.0.2"]
