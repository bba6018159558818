"""A server on the host's loopback for what HTTP/1.1 can carry: events, large bodies both ways, WebSocket."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ssl
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

BLOCK: Final = bytes(range(256)) * 4096  # 1 MiB in which a lost, doubled or moved byte shows
BODY_BLOCKS: Final = 200
BODY_DIGEST: Final = hashlib.sha256(BLOCK * BODY_BLOCKS).hexdigest()

_WAIT_S: Final = 120.0
_WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_CLOSE, _PING, _PONG = 8, 9, 10


class Http1Server:
    """The server while it is up. The second event is sent once `second` is set."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self.second = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Conversation)
        self._server.second = self.second
        if context is not None:
            listener = self._server.socket
            self._server.socket = context.wrap_socket(listener, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="http1")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.second.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    second: threading.Event

    def shutdown_request(self, request: object) -> None:
        """End TLS as its rules say, so that a client may tell the end from a cut."""
        if isinstance(request, ssl.SSLSocket):
            with contextlib.suppress(OSError):
                request.unwrap()
            request.close()
        else:
            super().shutdown_request(request)  # type: ignore[arg-type]  # typeshed says it is one of ours

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no error of the server's."""


class _Conversation(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _WAIT_S
    server: _Server

    def do_GET(self) -> None:
        """Serve the path's own kind of answer."""
        match self.path:
            case "/events":
                self._events()
            case "/body":
                self._head(200, "application/octet-stream", BODY_BLOCKS * len(BLOCK))
                for _ in range(BODY_BLOCKS):
                    self.wfile.write(BLOCK)
            case "/socket":
                self._socket()
            case _:
                self._head(404, "text/plain", 0)

    def do_PUT(self) -> None:
        """Answer with the digest of what came."""
        digest, left = hashlib.sha256(), int(self.headers["content-length"])
        while left and (data := self.rfile.read(min(left, 1 << 20))):
            digest.update(data)
            left -= len(data)
        said = digest.hexdigest().encode()
        self._head(200, "text/plain", len(said))
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""

    def _head(self, status: int, kind: str, length: int) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(length))
        self.end_headers()

    def _events(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self._chunk(b"data: first\n\n")
        if self.server.second.wait(_WAIT_S):
            self._chunk(b"data: second\n\n")
            self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _socket(self) -> None:
        """Echo each message until the client closes. RFC 6455; no message comes in fragments here."""
        key = self.headers["sec-websocket-key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + _WEBSOCKET_GUID).digest()).decode()
        self.send_response(101)
        for name, value in (("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", accept)):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        kind = 0
        while kind != _CLOSE:
            kind, data = self._frame()
            self._answer(_PONG if kind == _PING else kind, data)

    def _frame(self) -> tuple[int, bytes]:
        first, second = self.rfile.read(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self.rfile.read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self.rfile.read(8))
        mask = self.rfile.read(4)
        data = self.rfile.read(length)
        key = int.from_bytes((mask * (length // 4 + 1))[:length])
        return first & 0x0F, (int.from_bytes(data) ^ key).to_bytes(length)

    def _answer(self, kind: int, data: bytes) -> None:
        size = bytes([len(data)]) if len(data) < 126 else b"\x7f" + struct.pack(">Q", len(data))
        self.wfile.write(bytes([0x80 | kind]) + size + data)
        self.wfile.flush()
