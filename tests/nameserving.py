"""A gateway as the resolver sees it, and a small resolver of the host's: real parts, for tests on DNS."""

from __future__ import annotations

import socket
import threading
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from sandhold.egress.answers import Answers
from sandhold.egress.flows import Flows
from sandhold.egress.gateway import Gateway, RecordUnavailableError
from sandhold.egress.pipes import PipePool
from sandhold.egress.reactor import Pending, Reactor
from sandhold.egress.synthetic_names import SyntheticNames
from sandhold.egress.upstream import Upstream, look_up
from sandhold.model.event import Lookup
from sandhold.model.rule import (
    EVERY_PORT,
    Effect,
    Generation,
    HostServicePattern,
    NamePattern,
    Policy,
    PortRange,
    Posture,
    Rule,
    RuleId,
)
from sandhold.policy.index import PolicyIndex
from tests.simulators import new_event_id

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address
    from types import TracebackType
    from typing import Self

    from sandhold.egress.certificates import Authority
    from sandhold.model.event import Event

PATIENCE_S: Final = 30.0
PORTS_TRIED_MAX: Final = 50  # a port may be in use for UDP alone


def _allow(name: str, port: int | None = None) -> Rule:
    ports = EVERY_PORT if port is None else (PortRange(port, port),)
    identity = f"local:{name.partition('.')[0]}"
    return Rule(RuleId(identity), identity, Effect.ALLOW, NamePattern(tuple(name.split("."))), ports, name)


_OLLAMA: Final = Rule(
    RuleId("local:ollama"),
    "local:ollama",
    Effect.ALLOW,
    HostServicePattern(),
    (PortRange(11434, 11434),),
    "localhost:11434",
)
RULES: Final = (_allow("allowed.test", 443), _allow("port-80.test", 80), _allow("ssh-only.test", 22), _OLLAMA)


class Desk(AbstractContextManager["Desk"]):
    """A gateway whose records are kept in `records`; `is_disk_full` makes recording fail."""

    def __init__(self, posture: str = "balanced", resolvers: tuple[str, ...] = ()) -> None:
        self.records: list[Lookup] = []
        self.is_disk_full = False
        self.reactor = Reactor()
        self.gateway = Gateway(
            reactor=self.reactor,
            sandbox="sbxlab",
            names=SyntheticNames(),
            authority=self._no_authority,
            index=PolicyIndex(Policy(Generation(1), Posture(posture), RULES), "sbxlab"),
            record=self._record,
            note=self._note,
            note_denial=self._note,
            is_trail_spent=lambda: False,
            upstream=Upstream(self.reactor, Answers(self.reactor, look_up)),
            flows=Flows(),
            pipes=PipePool(),
            now=lambda: 1_900_000_000.0,
            new_event=new_event_id,
            original_destination=self._no_destination,
            resolvers=lambda: resolvers,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async def nothing() -> None:
            return

        self.reactor.run(nothing())

    def deny_everything(self) -> None:
        """Apply a generation without rules."""
        self.gateway.index = PolicyIndex(Policy(Generation(2), Posture.DENY_ALL, ()), "sbxlab")

    def limit_names(self, names_max: int) -> None:
        """Use a smaller table of names."""
        self.gateway.names = SyntheticNames(names_max)

    async def _record(self, *events: Event) -> None:
        if self.is_disk_full:
            raise RecordUnavailableError("no space left on device")
        for event in events:
            self._note(event)

    def _note(self, *events: Event) -> None:
        for event in events:
            assert isinstance(event, Lookup)
            self.records.append(event)

    def _no_authority(self) -> Authority:
        raise AssertionError("a lookup needs no certificate")

    def _no_destination(self, sock: socket.socket) -> tuple[IPv4Address | IPv6Address, int]:
        raise AssertionError("a lookup was redirected nowhere")


def bind_both() -> tuple[socket.socket, socket.socket]:
    """A UDP socket and a TCP listener on one port of loopback."""
    for _ in range(PORTS_TRIED_MAX):
        listener = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            udp.bind(listener.getsockname())
        except OSError:
            listener.close()
            udp.close()
        else:
            return udp, listener
    raise AssertionError("no port is free for both")


class HostResolver(AbstractContextManager["HostResolver"]):
    """A resolver on loopback, UDP and TCP on one port; `questions` is all that it was ever asked.

    It answers TXT with `manner`, and behaves as that says: `plain`, `truncated` (over UDP), `silent`, `wrong-id`,
    `wrong-question`, `other-source`, `garbage`, `servfail`, `with-extras`.
    """

    def __init__(self, manner: str = "plain") -> None:
        self.manner = manner
        self.questions: list[tuple[str, str, str]] = []
        self.ids: list[int] = []
        self.ports: list[int] = []
        self._udp, self._tcp = bind_both()
        self.port: int = self._udp.getsockname()[1]
        self._is_closing = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._serve_udp, self._serve_tcp)]

    @property
    def address(self) -> str:
        """How a gateway is told of it."""
        return f"127.0.0.1#{self.port}"

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closing.set()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bell:
            bell.sendto(b"", ("127.0.0.1", self.port))
        self._tcp.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        self._udp.close()
        self._tcp.close()

    def _serve_udp(self) -> None:
        while True:
            data, client = self._udp.recvfrom(65535)
            if self._is_closing.is_set():
                return
            question = self._note(data, "udp")
            self.ids.append(question.id)
            self.ports.append(client[1])
            for reply in self._replies(question):
                self._udp.sendto(reply, client)
            if self.manner == "other-source":
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                    stranger.bind(("127.0.0.1", 0))
                    stranger.sendto(_answer(question, "forged").to_wire(), client)
                self._udp.sendto(_answer(question, "plain").to_wire(), client)

    def _serve_tcp(self) -> None:
        while True:
            try:
                sock, _ = self._tcp.accept()
            except OSError:
                return
            with sock, suppress(OSError, dns.exception.DNSException):
                sock.settimeout(PATIENCE_S)
                size = int.from_bytes(sock.recv(2, socket.MSG_WAITALL), "big")
                question = self._note(sock.recv(size, socket.MSG_WAITALL), "tcp")
                reply = _answer(question, "x" * 200, records=40).to_wire(max_size=65_535)
                sock.sendall(len(reply).to_bytes(2, "big") + reply)

    def _note(self, data: bytes, transport: str) -> dns.message.Message:
        message = dns.message.from_wire(data)
        (question,) = message.question
        self.questions.append((question.name.to_text(), dns.rdatatype.to_text(question.rdtype), transport))
        return message

    def _replies(self, question: dns.message.Message) -> list[bytes]:
        good = _answer(question, self.manner)
        match self.manner:
            case "silent" | "other-source":
                return []
            case "garbage":
                return [b"\xff" * 40, b"", b"\x00", good.to_wire()]
            case "wrong-id":
                forged = _answer(question, "forged")
                forged.id = question.id ^ 1
                return [forged.to_wire(), good.to_wire()]
            case "wrong-question":
                other = dns.message.make_query("allowed.test", "MX", id=question.id)
                return [dns.message.make_response(other).to_wire(), good.to_wire()]
            case "servfail":
                good.answer.clear()
                good.set_rcode(dns.rcode.SERVFAIL)
                return [good.to_wire()]
            case "truncated":
                good.answer.clear()
                good.flags |= dns.flags.TC
                return [good.to_wire()]
            case "with-extras":
                good.additional.append(dns.rrset.from_text("inner.test.", 60, "IN", "A", "10.0.0.9"))
                good.answer.append(dns.rrset.from_text("allowed.test.", 60, "IN", "A", "10.0.0.9"))
        return [good.to_wire()]


def _answer(question: dns.message.Message, text: str, records: int = 1) -> dns.message.Message:
    response = dns.message.make_response(question)
    owner = question.question[0].name
    values = [f'"{number}-{text}"' if records > 1 else f'"{text}"' for number in range(records)]
    response.answer.append(dns.rrset.from_text(owner, 60, "IN", "TXT", *values))
    return response


class Loop(AbstractContextManager["Loop"]):
    """A reactor in a thread of its own, until the end of the block."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._stop: Pending[None] = Pending(reactor)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        async def wait() -> None:
            await self._stop.wait(float("inf"))

        self._reactor.run(wait())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reactor.post(partial(self._stop.resolve, None))
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
