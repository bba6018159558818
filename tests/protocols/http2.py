"""A server on the host's loopback that speaks HTTP/2: a page for browsers, and gRPC calls that echo each message."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, RequestReceived, StreamEnded, StreamReset

if TYPE_CHECKING:
    import ssl
    from types import TracebackType
    from typing import Self

PAGE: Final = b"hello over HTTP/2"

_WAIT_S: Final = 120.0
_CALL: Final = b"application/grpc"
_PREFIX_BYTES: Final = 5  # of a message: whether it is compressed, and its length


class Http2Server:
    """The server while it is up."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="http2")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(sock,), daemon=True).start()

    def _converse(self, sock: socket.socket) -> None:
        sock.settimeout(_WAIT_S)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            if self._context is not None:
                sock = stack.enter_context(self._context.wrap_socket(sock, server_side=True))
            _Conversation(sock).run()


@dataclass
class _Stream:
    is_call: bool
    came: bytearray = field(default_factory=bytearray)
    to_send: bytearray = field(default_factory=bytearray)
    is_over: bool = False


class _Conversation:
    """One connection: what comes is echoed as far as the client's window allows."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._http2 = H2Connection(H2Configuration(client_side=False))
        self._streams: dict[int, _Stream] = {}

    def run(self) -> None:
        """Serve until either side ends it."""
        self._http2.initiate_connection()
        self._sock.sendall(self._http2.data_to_send())
        while data := self._sock.recv(65536):
            for event in self._http2.receive_data(data):
                match event:
                    case RequestReceived():
                        self._begin(event.stream_id, (b"content-type", _CALL) in event.headers)
                    case DataReceived():
                        self._http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        self._streams[event.stream_id].came += event.data
                    case StreamEnded():
                        self._streams[event.stream_id].is_over = True
                    case StreamReset():
                        self._streams.pop(event.stream_id, None)
                    case ConnectionTerminated():
                        return
            for number in list(self._streams):
                self._go_on(number, self._streams[number])
            self._sock.sendall(self._http2.data_to_send())

    def _begin(self, number: int, is_call: bool) -> None:  # noqa: FBT001  private, and it is read from the request
        kind = _CALL if is_call else b"text/plain"
        self._http2.send_headers(number, [(b":status", b"200"), (b"content-type", kind)])
        self._streams[number] = _Stream(is_call, to_send=bytearray() if is_call else bytearray(PAGE))

    def _go_on(self, number: int, stream: _Stream) -> None:
        while len(stream.came) >= _PREFIX_BYTES:
            size = _PREFIX_BYTES + int.from_bytes(stream.came[1:_PREFIX_BYTES])
            if len(stream.came) < size:
                break
            stream.to_send += stream.came[:size]
            del stream.came[:size]
        while stream.to_send and (window := self._http2.local_flow_control_window(number)) > 0:
            size = min(window, self._http2.max_outbound_frame_size)
            self._http2.send_data(number, bytes(stream.to_send[:size]))
            del stream.to_send[:size]
        if stream.is_over and not stream.to_send:
            if stream.is_call:
                self._http2.send_headers(number, [(b"grpc-status", b"0")], end_stream=True)
            else:
                self._http2.end_stream(number)
            del self._streams[number]
