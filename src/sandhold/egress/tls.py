"""The server's side of TLS over a stream: OpenSSL reads from and writes to memory, the stream moves the bytes.

What was read and pushed back on the stream (the ClientHello) is the first thing OpenSSL sees.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandhold.egress.reactor import Reactor
    from sandhold.egress.stream import Stream

RECORD_BYTES: Final = 16 * 1024 + 512  # one TLS record with its overhead (RFC 8446 section 5.2): memory held per read
HANDSHAKE_BYTES_MAX: Final = 64 * 1024  # a hello with large key shares has 4 KB; a flood is cut off
EMPTY_READS_MAX: Final = 512  # reads in a row that yield no data: key updates, alerts, records in tiny pieces


class TlsStream:
    """TLS as awaited reads and writes; the same shape as `Stream`, which it does not own."""

    __slots__ = ("_incoming", "_is_ended", "_object", "_outgoing", "_reactor", "_stream")

    def __init__(self, reactor: Reactor, stream: Stream, context: ssl.SSLContext) -> None:
        self._reactor = reactor
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._is_ended = False
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    @property
    def application_protocol(self) -> str | None:
        """What ALPN agreed on, None when the client offered nothing we speak."""
        return self._object.selected_alpn_protocol()

    async def handshake(self, deadline: float) -> None:
        """Finish the handshake.

        Raises:
            ssl.SSLError: when the client breaks the protocol or rejects the certificate.
            EOFError: when the client leaves before the end, or sends more than a handshake has.
            TimeoutError: at the deadline.
            OSError: when the connection is broken.
        """
        received = await self._fill(deadline) if self._stream.early else 0
        while not self._advance(self._object.do_handshake):
            await self._flush(deadline)
            if received >= HANDSHAKE_BYTES_MAX:
                raise EOFError("more bytes than a handshake has")
            self._stream.acknowledge_at_once()  # the end of the handshake and the first request
            self._stream.expect_answer()
            received += await self._fill(deadline)
        await self._flush(deadline)

    async def read(self, bytes_max: int, deadline: float) -> bytes:
        """Read at least one byte, or `b""` at the end, orderly or not.

        Raises:
            ssl.SSLError: when the client breaks the protocol.
            TimeoutError: at the deadline.
            OSError: when the connection is broken.
        """
        for _ in range(EMPTY_READS_MAX):
            try:
                if self._incoming.pending or self._object.pending():  # else it would only say that it wants more
                    return self._object.read(bytes_max)
            except ssl.SSLWantReadError:
                await self._flush(deadline)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            try:
                await self._fill(deadline)
            except EOFError:
                return b""
        raise TimeoutError("the client keeps sending records without data")

    async def write(self, data: bytes, deadline: float) -> None:
        """Write everything; one record is held in memory at a time.

        Raises:
            ssl.SSLError: when the session is broken.
            TimeoutError: at the deadline.
            OSError: when the connection is broken.
        """
        rest = memoryview(data)
        while rest:
            rest = rest[self._object.write(rest[:RECORD_BYTES]) :]
            await self._flush(deadline)

    async def end_writing(self, deadline: float, last: bytes = b"") -> None:
        """Send `last`, close_notify (RFC 8446 section 6.1) and FIN, in one packet where they fit; once is enough.

        The client's own close_notify is not waited for.

        Raises:
            TimeoutError: at the deadline.
            OSError: when the connection is broken.
        """
        if self._is_ended:
            return
        self._is_ended = True
        if len(last) > RECORD_BYTES:
            await self.write(last, deadline)
        elif last:
            self._object.write(last)
        with contextlib.suppress(ssl.SSLError):  # it waits for the client's own, or there is no session to end
            self._object.unwrap()
        await self._stream.end_with(self._outgoing.read(), deadline)

    async def say_why(self, deadline: float) -> None:
        """Send the alert that OpenSSL has prepared after a failed handshake.

        Raises:
            TimeoutError: at the deadline.
            OSError: when the connection is broken.
        """
        await self._stream.end_with(self._outgoing.read(), deadline)

    def _advance(self, step: Callable[[], None]) -> bool:
        try:
            step()
        except ssl.SSLWantReadError:
            return False
        return True

    async def _fill(self, deadline: float) -> int:
        if self._reactor.clock() >= deadline:  # bytes that are always there would never reach the wait that checks it
            raise TimeoutError
        data = await self._stream.read(RECORD_BYTES, deadline)
        if not data:
            self._incoming.write_eof()
            raise EOFError("the client left")
        return self._incoming.write(data)

    async def _flush(self, deadline: float) -> None:
        data = self._outgoing.read()
        if data:
            await self._stream.write(data, deadline)
