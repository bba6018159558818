"""Far ends that count: what arrived at each port of the host's loopback, in memory that does not grow with it."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections import Counter
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

BLOCK_BYTES: Final = 65536
SILENCE_S: Final = 120.0  # a far end that hears nothing for so long hangs up


class FarEnds:
    """TCP servers on 127.0.0.1; `accepted` and `heard` count connections and bytes by port.

    `on_accept` is called with the port before anything is said on a new connection.
    """

    def __init__(self, on_accept: Callable[[int], None] = lambda _: None) -> None:
        self.accepted: Counter[int] = Counter()
        self.heard: Counter[int] = Counter()
        self._on_accept = on_accept
        self.lock = threading.Lock()
        self._servers: list[_Server] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def open(self, talk: Callable[[socket.socket, Callable[[bytes], None]], None]) -> int:
        """Start a server that talks so; returns its port."""
        server = _Server(self, talk)
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server.port

    def note_accepted(self, port: int) -> None:
        """Count a connection."""
        with self.lock:
            self.accepted[port] += 1
            self._on_accept(port)

    def note_heard(self, port: int, count: int) -> None:
        """Count bytes."""
        with self.lock:
            self.heard[port] += count


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, ends: FarEnds, talk: Callable[[socket.socket, Callable[[bytes], None]], None]) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.port = int(self.server_address[1])
        self._ends = ends
        self._talk = talk

    def finish_request(self, request: object, client_address: object) -> None:
        """Count the connection and talk (called in the connection's own thread)."""
        sock: socket.socket = request  # type: ignore[assignment]  # TCP servers give sockets
        sock.settimeout(SILENCE_S)
        self._ends.note_accepted(self.port)
        with contextlib.suppress(OSError):
            self._talk(sock, lambda data: self._ends.note_heard(self.port, len(data)))


def echo(sock: socket.socket, hear: Callable[[bytes], None]) -> None:
    """Send back what comes until the end."""
    while data := sock.recv(BLOCK_BYTES):
        hear(data)
        sock.sendall(data)


def http(sock: socket.socket, hear: Callable[[bytes], None]) -> None:
    """Answer each request head (those here have no body) with a small page."""
    pending = b""
    while data := sock.recv(BLOCK_BYTES):
        hear(data)
        pending += data
        while b"\r\n\r\n" in pending:
            _, _, pending = pending.partition(b"\r\n\r\n")
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


def tls_echo(context: ssl.SSLContext) -> Callable[[socket.socket, Callable[[bytes], None]], None]:
    """Echo inside TLS."""

    def talk(sock: socket.socket, hear: Callable[[bytes], None]) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            echo(tls, hear)

    return talk
