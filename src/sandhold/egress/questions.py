"""Puts one question to the host's own resolvers: the only DNS that ever leaves, for a name that policy allows.

The socket is connected and has a port of the kernel's choice, so only the resolver's own datagrams arrive on it; the id
is random; an answer to another question is ignored (RFC 5452 section 9).
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from sandhold.egress.stream import Stream
from sandhold.wire.dns_message import build_outside_query, strip_answer
from sandhold.wire.dns_question import OUTSIDE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandhold.egress.reactor import Reactor
    from sandhold.wire.dns_question import Query

RESOLVERS_MAX: Final = 2  # the first and its stand-in: with TRY_S it is done before a program's own patience ends
TRY_S: Final = 3.0  # for one resolver over one transport
STRAY_DATAGRAMS_MAX: Final = 16  # answers to other questions that are ignored before the resolver is given up
RESOLVER_PORT: Final = 53

_TRUNCATED: Final = 0x02  # TC in the third byte (RFC 1035 section 4.1.1)
_CODE: Final = 0x0F  # RCODE in the fourth
_CODES_TAKEN: Final = frozenset({0, 3})  # NOERROR and NXDOMAIN


@dataclass(frozen=True, slots=True)
class Resolver:
    """A nameserver of the host."""

    address: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Resolver:
        """Read `192.0.2.53`, `2001:db8::53`, `fe80::1%eth0`, or any of them with `#5353` for the port.

        Raises:
            ValueError: when it is no address.
        """
        address, _, port = text.partition("#")
        return cls(str(ip_address(address)), int(port) if port else RESOLVER_PORT)

    @property
    def family(self) -> socket.AddressFamily:
        """The socket family of the address."""
        is_ipv6 = isinstance(ip_address(self.address), IPv6Address)
        return socket.AF_INET6 if is_ipv6 else socket.AF_INET

    @property
    def endpoint(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The address as connect(2) takes it; a zone becomes its interface's number."""
        address, _, zone = self.address.partition("%")
        return (address, self.port, 0, socket.if_nametoindex(zone)) if zone else (address, self.port)


async def ask_outside(reactor: Reactor, resolvers: Sequence[str], query: Query) -> bytes | None:
    """Ask the resolvers in turn until one answers; None when none does, within `RESOLVERS_MAX * 2 * TRY_S`."""
    for text in resolvers[:RESOLVERS_MAX]:
        try:
            answer = await _ask_one(reactor, Resolver.parse(text), query)
        except (OSError, TimeoutError, EOFError, ValueError):
            continue  # unreachable, silent or no address: the next one may work
        if answer is not None:
            return answer
    return None


async def _ask_one(reactor: Reactor, resolver: Resolver, query: Query) -> bytes | None:
    message_id = int.from_bytes(os.urandom(2))
    question = build_outside_query(query, message_id)
    answer = await _over_udp(reactor, resolver, question, query)
    if answer is not None and answer[2] & _TRUNCATED:
        answer = await _over_tcp(reactor, resolver, question)
    if answer is None or answer[3] & _CODE not in _CODES_TAKEN:
        return None  # SERVFAIL, REFUSED and the like: another resolver may know better
    return strip_answer(query, answer, message_id)


async def _over_udp(reactor: Reactor, resolver: Resolver, question: bytes, query: Query) -> bytes | None:
    deadline = reactor.clock() + TRY_S
    message_id = int.from_bytes(question[:2])
    with socket.socket(resolver.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(resolver.endpoint)
        sock.send(question)
        try:
            for _ in range(STRAY_DATAGRAMS_MAX):
                answer = await _receive(reactor, sock, deadline)
                if strip_answer(query, answer, message_id) is not None:
                    return answer
        finally:
            reactor.forget(sock.fileno())
    return None


async def _receive(reactor: Reactor, sock: socket.socket, deadline: float) -> bytes:
    while True:
        try:
            return sock.recv(OUTSIDE_BYTES_MAX + 1)  # one more is too large, and seen to be
        except BlockingIOError:
            await reactor.readable(sock.fileno(), deadline)


async def _over_tcp(reactor: Reactor, resolver: Resolver, question: bytes) -> bytes:
    deadline = reactor.clock() + TRY_S
    stream = Stream(reactor, socket.socket(resolver.family, socket.SOCK_STREAM))
    try:
        await _connect(reactor, stream.sock, resolver, deadline)
        await stream.write(len(question).to_bytes(2) + question, deadline)
        size = int.from_bytes(await stream.read_exactly(2, deadline))
        if size > OUTSIDE_BYTES_MAX:
            raise EOFError("an answer that is too large")
        return await stream.read_exactly(size, deadline)
    finally:
        stream.close()


async def _connect(reactor: Reactor, sock: socket.socket, resolver: Resolver, deadline: float) -> None:
    code = sock.connect_ex(resolver.endpoint)
    if code == errno.EINPROGRESS:
        await reactor.writable(sock.fileno(), deadline)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
