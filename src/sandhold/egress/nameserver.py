"""The resolver's sockets: datagrams and connections from inside, each answered by `lookups`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sandhold.egress.lookups import QUERY_BYTES_MAX, Lookups
from sandhold.egress.stream import Stream
from sandhold.wire.dns_question import Query, Transport

if TYPE_CHECKING:
    import socket

    from sandhold.egress.gateway import Gateway

BATCH_MAX: Final = 32  # datagrams in one turn, so that connections are served meanwhile
TCP_CONNECTIONS_MAX: Final = 32  # a stub resolver uses one or two
TCP_QUERIES_MAX: Final = 64  # on one connection
TCP_IDLE_S: Final = 5.0  # RFC 7766 section 6.2.3: a few seconds
PAUSE_S: Final = 0.1  # after the kernel failed for want of descriptors or memory
NEVER: Final = float("inf")


class Nameserver:
    """The resolver of one sandbox, on all its sockets."""

    __slots__ = ("_connections", "_lookups", "_reactor")

    def __init__(self, gateway: Gateway) -> None:
        self._reactor = gateway.reactor
        self._lookups = Lookups(gateway)
        self._connections = 0

    async def serve_udp(self, sock: socket.socket) -> None:
        """Answer datagrams until the task is cancelled or the socket is forgotten; the socket is the caller's."""
        sock.settimeout(0)
        fd = sock.fileno()
        while True:
            try:
                await self._reactor.readable(fd, NEVER)
            except ConnectionAbortedError:
                return
            for _ in range(BATCH_MAX):
                try:
                    data, client = sock.recvfrom(QUERY_BYTES_MAX + 1)
                except BlockingIOError:
                    break
                except ConnectionError:
                    continue  # an ICMP error for an answer that nobody waited for
                except OSError:
                    await self._reactor.sleep(self._reactor.clock() + PAUSE_S)
                    break
                query = self._lookups.read(data, Transport.UDP)
                reply = self._lookups.answer_inside(query) if isinstance(query, Query) else query
                if reply is not None:
                    _send(sock, reply, client)
                elif isinstance(query, Query):
                    self._reactor.spawn(self._reply_from_outside(sock, client, query), "lookup")

    async def serve_tcp(self, listener: socket.socket) -> None:
        """Answer connections until the task is cancelled or the socket is forgotten; the listener is the caller's."""
        listener.settimeout(0)
        while listener.fileno() >= 0:
            try:
                await self._reactor.readable(listener.fileno(), NEVER)
                sock, _ = listener.accept()
            except (ConnectionAbortedError, BlockingIOError):
                continue  # the client was gone before it was accepted, or the listener is closed
            except OSError:
                await self._reactor.sleep(self._reactor.clock() + PAUSE_S)
                continue
            stream = Stream(self._reactor, sock)
            if self._connections >= TCP_CONNECTIONS_MAX:
                stream.reset()
                continue
            self._reactor.spawn(self._serve_connection(stream), "dns over tcp")

    async def _serve_connection(self, stream: Stream) -> None:
        self._connections += 1
        try:
            for _ in range(TCP_QUERIES_MAX):
                deadline = self._reactor.clock() + TCP_IDLE_S
                size = int.from_bytes(await stream.read_exactly(2, deadline))
                if size > QUERY_BYTES_MAX:
                    return
                query = self._lookups.read(await stream.read_exactly(size, deadline), Transport.TCP)
                reply = self._lookups.answer_inside(query) if isinstance(query, Query) else query
                if reply is None and isinstance(query, Query):
                    reply = await self._lookups.answer_outside(query)
                if reply is None:
                    return
                await stream.write(len(reply).to_bytes(2) + reply, self._reactor.clock() + TCP_IDLE_S)
        except (OSError, EOFError, TimeoutError):
            return  # the client left, or is too slow
        finally:
            self._connections -= 1
            stream.close()

    async def _reply_from_outside(self, sock: socket.socket, client: tuple[Any, ...], query: Query) -> None:
        _send(sock, await self._lookups.answer_outside(query), client)


def _send(sock: socket.socket, reply: bytes, client: tuple[Any, ...]) -> None:
    """Send one answer; a client that does not take it asks again, as after any lost datagram."""
    try:
        sock.sendto(reply, client)
    except OSError:
        return
