"""Small whole things that stand where the world would: an internet on loopback, an audit trail, an egress with clients.

Nothing here is asked how it was called: tests look at what arrived at the far ends, what the trail holds and what the
client saw.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import ssl
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, Self, TypeVar

import dns.message
import dns.rdatatype

from sandhold.egress.server import EgressSetup, Inside, serve
from sandhold.model.cell_addresses import GATEWAY_IPV4, PROXY_PORT
from sandhold.model.event import (
    ULID_RANDOM_BYTES,
    Closed,
    Connection,
    Dropped,
    Established,
    Lookup,
    Repeated,
    Request,
    make_event_id,
)
from sandhold.model.rule import Effect, Generation, Policy, Posture, Rule, RuleId
from sandhold.policy.index import PolicyIndex
from sandhold.policy.syntax import parse_resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sandhold.egress.certificates import Authority
    from sandhold.model.event import Event, EventId

PATIENCE_S: Final = 20.0  # far beyond anything; it only keeps a failing test from hanging

Address = IPv4Address | IPv6Address
E = TypeVar("E", Connection, Request, Established, Closed, Dropped, Repeated, Lookup)


def new_event_id() -> EventId:
    """An event id that nobody else has."""
    return make_event_id(time.time_ns() // 1_000_000, os.urandom(ULID_RANDOM_BYTES))


def policy(
    *rules: str, posture: Posture = Posture.BALANCED, generation: int = 1, expires_at: float | None = None
) -> PolicyIndex:
    """A policy of lines such as `allow good.test:443`."""
    made = []
    for number, line in enumerate(rules):
        word, resource = line.split(" ", 1)
        effect = Effect(word)
        pattern, ports = parse_resource(resource, effect)
        made.append(
            Rule(RuleId(f"local:{number}"), f"local:{number}", effect, pattern, ports, resource, expires_at=expires_at)
        )
    return PolicyIndex(Policy(Generation(generation), posture, tuple(made)), "sbxlab")


class FarEnd:
    """A TCP server on loopback; each connection is talked to by `talk` in a thread of its own.

    `accepted` counts connections; `heard` is what `talk` says it got.
    """

    def __init__(self, talk: Callable[[FarEnd, socket.socket], None], backlog: int = 2048) -> None:
        self._talk = talk
        self.accepted = 0
        self.heard: list[bytes] = []
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return int(self.listener.getsockname()[1])

    def close(self) -> None:
        """Stop accepting and end every conversation."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE_S)
        self.listener.close()
        for sock in tuple(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.add(sock)
            thread = threading.Thread(target=self._converse, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _converse(self, sock: socket.socket) -> None:
        try:
            with suppress(OSError):
                self._talk(self, sock)
        finally:
            self._open.discard(sock)
            sock.close()


class Blackhole:
    """A place that answers no SYN: a listener whose queue is full (listen(2)) and is never emptied."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self._queued = [socket.socket() for _ in range(4)]
        for sock in self._queued:
            sock.settimeout(0)
            sock.connect_ex(self.listener.getsockname())

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return int(self.listener.getsockname()[1])

    def close(self) -> None:
        """Close everything."""
        for sock in (*self._queued, self.listener):
            sock.close()


def echo(far_end: FarEnd, sock: socket.socket) -> None:
    """Send back what comes, in the same order, until the end."""
    while data := sock.recv(65536):
        far_end.heard.append(data)
        sock.sendall(data)


def tls_echo(authority: Authority, name: str) -> Callable[[FarEnd, socket.socket], None]:
    """An echo behind TLS with a certificate for that name."""
    from sandhold.model.destination import parse_host  # noqa: PLC0415  only here

    context = authority.context_for(parse_host(name))

    def talk(far_end: FarEnd, sock: socket.socket) -> None:
        with suppress(ssl.SSLError), context.wrap_socket(sock, server_side=True) as tls:
            while data := tls.recv(65536):
                far_end.heard.append(data)
                tls.sendall(data)

    return talk


@dataclass
class Internet:
    """Names, and what answers at which address; `dials` and `lookups` are all that was tried."""

    names: dict[str, tuple[Address, ...]] = field(default_factory=dict)
    places: dict[tuple[str, int], FarEnd | Blackhole] = field(default_factory=dict)
    dials: list[tuple[str, int]] = field(default_factory=list)
    lookups: list[str] = field(default_factory=list)
    is_resolving: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.is_resolving.set()

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was looked up and nothing dialled."""
        return not self.lookups and not self.dials

    def host(self, name: str, address: str, ports: dict[int, FarEnd]) -> None:
        """Give a name an address, and far ends on its ports."""
        self.names[name] = (*self.names.get(name, ()), ip_address(address))
        for port, far_end in ports.items():
            self.places[address, port] = far_end

    def lookup(self, name: str) -> Sequence[Address]:
        """As `upstream.look_up`."""
        self.lookups.append(name)
        assert self.is_resolving.wait(PATIENCE_S)
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self.names[name]

    def connect(self, sock: socket.socket, place: tuple[str, int]) -> int:
        """As `socket.connect_ex`, on this internet."""
        self.dials.append(place)
        far_end = self.places.get(place)
        return errno.ECONNREFUSED if far_end is None else sock.connect_ex(("127.0.0.1", far_end.port))


class TrailSimulator:
    """An audit trail in memory: it can be full, slow or stuck, and is only ever appended to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.is_full = False
        self.delay_s = 0.0
        self.is_arriving = threading.Event()
        self.is_moving = threading.Event()
        self.is_moving.set()
        self._changed = threading.Condition()

    def append(self, events: Sequence[Event]) -> None:
        """As `Trail.append`."""
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.delay_s:
            threading.Event().wait(self.delay_s)
        self.is_arriving.set()
        assert self.is_moving.wait(PATIENCE_S)
        with self._changed:
            self.events.extend(events)
            self._changed.notify_all()

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind so far."""
        with self._changed:
            return [event for event in self.events if isinstance(event, kind)]

    def wait_for(self, kind: type[E], count: int = 1) -> list[E]:
        """The events of one kind, once there are that many."""
        deadline = time.monotonic() + PATIENCE_S
        with self._changed:
            while len(found := [event for event in self.events if isinstance(event, kind)]) < count:
                left = deadline - time.monotonic()
                assert left > 0, f"{len(found)} of {count} {kind.__name__}: {self.events}"
                self._changed.wait(left)
        return found


class EgressSimulation:
    """The real egress in a thread, on loopback sockets, with clients that say which address they believe to dial."""

    def __init__(self, index: PolicyIndex, authority: Authority, internet: Internet, **changes: object) -> None:
        self.internet = internet
        self.trail = TrailSimulator()
        self.index = index
        self.clock: Callable[[], float] = time.time
        self.reload_error: OSError | None = None
        self._originals: dict[int, tuple[Address, int]] = {}
        self._stack = ExitStack()
        self._tcp = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._dns_tcp = socket.create_server(("127.0.0.1", 0))
        self.place = self._tcp.getsockname()
        self.resolver = self._udp.getsockname()
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(PATIENCE_S)
        proxy = changes.pop("proxy", None)
        limit = changes.pop("connections_max", 4096)
        written = changes.pop("written", lambda: 0)
        assert not changes
        self.setup = EgressSetup(
            inside=Inside((self._tcp,), (self._udp,), (self._dns_tcp,)),
            sandbox="sbxlab",
            index=index,
            append=self.trail.append,
            written=written,  # type: ignore[arg-type]
            authority=authority,
            now=self._now,
            reload=self._reload,
            proxy=proxy,  # type: ignore[arg-type]  # popped above, as the caller gave it
            connections_max=limit,  # type: ignore[arg-type]
            lookup=internet.lookup,
            connect=internet.connect,
            original_destination=self._original,
        )
        self._theirs = theirs
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self.hear() == {"ready": 1}
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()
        self._thread.join(PATIENCE_S)
        self._stack.close()
        assert not self._thread.is_alive()

    def say(self, message: dict[str, bool]) -> None:
        """Say something as the session."""
        self.link.send(json.dumps(message).encode())

    def hear(self) -> object:
        """What egress says to the session; None at the end."""
        packet = self.link.recv(4096)
        return json.loads(packet) if packet else None

    def is_running(self) -> bool:
        """Whether the process (here: the thread) is there."""
        return self._thread.is_alive()

    def wait_ended(self) -> None:
        """Wait until it has returned."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def apply(self, index: PolicyIndex) -> object:
        """Switch to another policy; what egress answers."""
        self.index = index
        self.say({"apply": True})
        return self.hear()

    def resolve(self, name: str) -> Address:
        """Ask the sandbox's resolver for the synthetic IPv4 address of a name."""
        query = dns.message.make_query(name, dns.rdatatype.A)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE_S)
            sock.sendto(query.to_wire(), self.resolver)
            answer = dns.message.from_wire(sock.recv(4096))
        return IPv4Address(answer.answer[0][0].address)

    def dial(self, host: str, port: int) -> socket.socket:
        """Connect as a program in the sandbox would, to a name (through its resolver) or to an address."""
        try:
            address: Address = ip_address(host)
        except ValueError:
            address = self.resolve(host)
        return self._connect((address, port))

    def dial_proxy(self) -> socket.socket:
        """Connect as a program that was told to use a proxy."""
        return self._connect((GATEWAY_IPV4, PROXY_PORT))

    def tls(self, sock: socket.socket, name: str | None, authorities: Iterable[str]) -> ssl.SSLSocket:
        """A TLS handshake, verified against these certificates (PEM); without a name none is sent."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for pem in authorities:
            context.load_verify_locations(cadata=pem)
        context.check_hostname = name is not None
        return self._stack.enter_context(context.wrap_socket(sock, server_hostname=name))

    def _serve(self) -> None:
        with self._theirs:
            serve(self.setup, self._theirs)

    def _now(self) -> float:
        return self.clock()

    def _reload(self) -> PolicyIndex:
        if self.reload_error is not None:
            raise self.reload_error
        return self.index

    def _connect(self, original: tuple[Address, int]) -> socket.socket:
        sock = self._stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        self._originals[sock.getsockname()[1]] = original
        # Not by `connect`, which would take a reset that is there already away from whoever reads next.
        sock.settimeout(0)
        sock.connect_ex(self.place)
        answered = select.poll()  # select(2) takes no descriptor above 1023, and a test opens a thousand connections
        answered.register(sock, select.POLLOUT)
        assert answered.poll(PATIENCE_S * 1000), "nobody accepts"
        sock.settimeout(PATIENCE_S)
        return sock

    def _original(self, sock: socket.socket) -> tuple[Address, int]:
        return self._originals[sock.getpeername()[1]]


def read_all(sock: socket.socket) -> bytes:
    """Everything until the end."""
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


def read_until(sock: socket.socket, ending: bytes) -> bytes:
    """Everything up to and including an ending."""
    data = b""
    while not data.endswith(ending):
        more = sock.recv(1)
        assert more, f"ended after {data!r}"
        data += more
    return data


def was_reset(sock: socket.socket) -> bool:
    """Whether the connection ends with a reset, not with a regular end."""
    try:
        while sock.recv(65536):
            continue
    except ConnectionResetError:
        return True
    return False
