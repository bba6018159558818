"""Refusals as real clients see them, over loopback, and clients that do their worst."""

from __future__ import annotations

import http.client
import json
import queue
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded
from h2.settings import SettingCodes, Settings

from sandhold.egress import tls_answers
from sandhold.egress.certificates import Authority
from sandhold.egress.reactor import Pending, Reactor
from sandhold.egress.refusal import Refusal, refuse_http, refuse_tls
from sandhold.egress.stream import Stream
from sandhold.model.decision import Decision, Reason
from sandhold.model.destination import Destination, DomainName, Source
from sandhold.model.event import EventId
from sandhold.model.rule import Effect, Generation
from sandhold.wire.need_more import NEED_MORE
from sandhold.wire.request_head import MalformedHeadError, read_request_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from h2.events import Event

NAME: Final = "denied.test"
REFUSAL: Final = Refusal(
    EventId("01JD0000000000000000000000"),
    Destination(DomainName(NAME), 443, Source.SNI),
    Decision(Effect.DENY, Reason.NO_RULE, None, Generation(1)),
    "sbxlab",
)
PATIENCE_S: Final = 30.0  # far beyond anything; it only keeps a failing test from hanging
SHORT_S: Final = 0.3  # the whole deadline where the client does nothing

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@dataclass
class Refuser:
    """A server that refuses every connection, over TLS or plain; `outcomes` gets what each one came to."""

    authority: Authority
    folder: Path
    over_tls: bool = True
    allowance_s: float = PATIENCE_S
    outcomes: queue.SimpleQueue[str | None] = field(default_factory=queue.SimpleQueue)
    port: int = 0

    @property
    def ca(self) -> str:
        """The file with the certificate to trust."""
        return str(self.folder / "certificate.pem")

    def outcome(self) -> str | None:
        """What the next connection to end came to."""
        return self.outcomes.get(timeout=PATIENCE_S)

    async def accept(self, reactor: Reactor, listener: socket.socket) -> None:
        """Take connections until cancelled."""
        while True:
            await reactor.readable(listener.fileno(), reactor.clock() + PATIENCE_S)
            stream = Stream(reactor, listener.accept()[0])
            reactor.spawn(self.refuse(reactor, stream), "refuse")

    async def refuse(self, reactor: Reactor, stream: Stream) -> None:
        """Read the first bytes as egress does, push them back, refuse."""
        deadline = reactor.clock() + self.allowance_s
        with suppress(OSError, TimeoutError):
            stream.unread(await stream.read(4096, deadline))
        if self.over_tls:
            self.outcomes.put(await refuse_tls(reactor, stream, REFUSAL, self.authority, DomainName(NAME), deadline))
            assert stream.fileno() == -1
            return
        event = None
        with suppress(MalformedHeadError):
            event = read_request_head(await stream.read(65536, deadline))
        head = event[0] if event is not None and event is not NEED_MORE else None
        await refuse_http(stream, REFUSAL, head, deadline)
        self.outcomes.put(None)

    def client_context(self, *protocols: str) -> ssl.SSLContext:
        """A client that trusts the authority and verifies by the letter, as Python 3.13 does by default."""
        context = ssl.create_default_context(cafile=self.ca)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    def connect(self) -> socket.socket:
        """A plain TCP connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def connect_tls(self, *protocols: str) -> ssl.SSLSocket:
        """A TLS connection in the denied name."""
        return self.client_context(*protocols).wrap_socket(self.connect(), server_hostname=NAME)


@pytest.fixture
def refuser(tmp_path: Path) -> Iterator[Refuser]:
    """A refusing server on loopback, in a thread of its own."""
    folder = tmp_path / "authority"
    server = Refuser(Authority.load_or_create(folder), folder)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)  # noqa: FBT003  socket's own signature
        server.port = listener.getsockname()[1]
        reactor = Reactor()
        stop: Pending[None] = Pending(reactor)

        async def main() -> None:
            accepting = reactor.spawn(server.accept(reactor, listener), "accept")
            await stop.wait(float("inf"))
            accepting.cancel()

        thread = threading.Thread(target=partial(reactor.run, main()))
        thread.start()
        yield server
        reactor.post(partial(stop.resolve, None))
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def curl(refuser: Refuser, *arguments: str, path: str = "/", scheme: str = "https") -> subprocess.CompletedProcess[str]:
    """Run curl against the refuser in the denied name."""
    url = f"{scheme}://{NAME}:{refuser.port}{path}"
    resolve = f"{NAME}:{refuser.port}:127.0.0.1"
    command = ["curl", "-q", "-sS", "-i", "--max-time", "20", "--noproxy", "*", "--resolve", resolve]
    return subprocess.run(
        [*command, "--cacert", refuser.ca, *arguments, url],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@needs_curl
@pytest.mark.parametrize(("flag", "version"), [("--http2", "HTTP/2"), ("--http1.1", "HTTP/1.1")])
def test_curl_gets_a_403_over_tls(refuser: Refuser, flag: str, version: str) -> None:
    """curl reads the refusal with its headers, in the version it negotiated, and is content with the certificate."""
    run = curl(refuser, flag)

    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"{version} 403")
    assert "x-sbx-decision: denied" in run.stdout
    assert f"x-sbx-event: {REFUSAL.event}" in run.stdout
    assert "x-sbx-rule: no-matching-rule" in run.stdout
    assert f"sbx policy allow network {NAME}:443 --sandbox sbxlab" in run.stdout
    assert refuser.outcome() is None


@needs_curl
@pytest.mark.parametrize("flag", ["--http2", "--http1.1"])
def test_curl_gets_json_when_it_accepts_it(refuser: Refuser, flag: str) -> None:
    """The body is JSON for a client that asks for it, in both versions."""
    run = curl(refuser, flag, "-H", "Accept: application/json")

    assert run.returncode == 0
    assert json.loads(run.stdout.replace("\r\n", "\n").partition("\n\n")[2])["host"] == NAME


@needs_curl
@pytest.mark.parametrize("flag", ["--http2", "--http1.1"])
def test_head_ends_without_a_body(refuser: Refuser, flag: str) -> None:
    """HEAD neither hangs nor gets a body."""
    run = curl(refuser, flag, "--head")

    assert run.returncode == 0
    assert "403" in run.stdout.splitlines()[0]
    assert run.stdout.replace("\r\n", "\n").endswith("\n\n")


@needs_curl
@pytest.mark.parametrize("flag", ["--http2", "--http1.1"])
def test_an_upload_is_answered_and_not_reset(refuser: Refuser, tmp_path: Path, flag: str) -> None:
    """A client that sends a large body still gets to read why it was refused."""
    (tmp_path / "upload").write_bytes(bytes(3_000_000))
    run = curl(refuser, flag, "-H", "Expect:", "--data-binary", f"@{tmp_path / 'upload'}")

    assert run.returncode == 0
    assert "x-sbx-decision: denied" in run.stdout


@needs_curl
def test_streams_of_one_connection_are_each_answered(refuser: Refuser) -> None:
    """Requests sent together over HTTP/2 all get their refusal."""
    run = curl(refuser, "--http2", "--parallel", "--parallel-max", "10", path="/[1-10]")

    assert run.returncode == 0
    assert run.stdout.count("x-sbx-decision: denied") == 10


@needs_curl
def test_a_client_that_rejects_the_authority_is_closed(refuser: Refuser, tmp_path: Path) -> None:
    """A client that trusts somebody else gets no answer, and the record can say why."""
    Authority.load_or_create(tmp_path / "other")
    run = curl(refuser, "--cacert", str(tmp_path / "other" / "certificate.pem"))

    assert run.returncode == 60  # CURLE_PEER_FAILED_VERIFICATION
    assert "403" not in run.stdout
    assert refuser.outcome() == "the client rejected the certificate"


def test_a_strict_client_that_rejects_the_authority_says_so(refuser: Refuser) -> None:
    """The alert of a client that does not know the authority is told from other failures."""
    with pytest.raises(ssl.SSLCertVerificationError), refuser.connect() as sock:
        ssl.create_default_context().wrap_socket(sock, server_hostname=NAME)

    assert refuser.outcome() == "the client rejected the certificate"


@needs_openssl
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_reads_the_refusal(refuser: Refuser, version: str) -> None:
    """`openssl s_client` verifies the chain and ends by itself, without ALPN, in every version that is offered."""
    run = subprocess.run(
        f"openssl s_client -quiet -verify_return_error -x509_strict {version} -connect 127.0.0.1:{refuser.port}"
        f" -servername {NAME} -verify_hostname {NAME} -CAfile {refuser.ca}".split(),
        input=f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert run.stdout.startswith("HTTP/1.1 403 Forbidden by sbx policy")
    assert run.stdout.endswith(f"Event {REFUSAL.event}.\n")


@needs_openssl
def test_old_versions_are_not_spoken(refuser: Refuser) -> None:
    """TLS 1.1 gets no answer."""
    run = subprocess.run(
        ["openssl", "s_client", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-connect", f"127.0.0.1:{refuser.port}"],
        input="",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert "403" not in run.stdout
    assert run.returncode != 0
    assert refuser.outcome() == "the TLS handshake failed"


def test_python_reads_the_refusal_with_strict_verification(refuser: Refuser) -> None:
    """The standard library's client, verifying by the letter, reads status, phrase and body to the end."""
    connection = http.client.HTTPSConnection("127.0.0.1", refuser.port, timeout=PATIENCE_S)
    connection.sock = refuser.connect_tls("http/1.1")
    connection.request("POST", "/path", body=bytes(1_000_000), headers={"Host": NAME})
    response = connection.getresponse()

    assert (response.status, response.reason) == (403, "Forbidden by sbx policy")
    assert response.read().endswith(b".\n")
    connection.close()
    assert refuser.outcome() is None


def test_a_request_that_nobody_can_read_is_refused_in_words(refuser: Refuser) -> None:
    """Something else than HTTP inside TLS gets the same answer, and an orderly end."""
    with refuser.connect_tls() as client:
        client.sendall(b"\x00\x01 no http\r\n\r\n")
        received = b"".join(iter(lambda: client.recv(4096), b""))

    assert received.startswith(b"HTTP/1.1 403 ")
    assert refuser.outcome() is None


def half_a_hello(client: socket.socket) -> None:
    """Announce a record of 500 bytes and send 20."""
    client.sendall(b"\x16\x03\x01\x01\xf4" + b"\x01\x00\x01\xf0\x03\x03" + bytes(14))


def reset_after_a_byte(client: socket.socket) -> None:
    """Send one byte, then RST."""
    client.sendall(b"\x16")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def leave_half_way(client: socket.socket) -> None:
    """Send half a hello, then FIN."""
    half_a_hello(client)
    client.shutdown(socket.SHUT_WR)


def flood(client: socket.socket) -> None:
    """Send handshake records that never make a message."""
    record = b"\x16\x03\x03\x40\x00" + b"\x01\xff\xff\xff" + bytes(0x4000 - 4)
    try:
        for _ in range(64):
            client.sendall(record)
    except OSError:
        return


RUDE: dict[str, tuple[Callable[[socket.socket], None], set[str]]] = {
    "nothing": (lambda _: None, {"the TLS handshake took too long"}),
    "half a hello": (half_a_hello, {"the TLS handshake took too long"}),
    "half a hello and FIN": (leave_half_way, {"the client left during the TLS handshake"}),
    "a reset": (
        reset_after_a_byte,
        {"the client broke the connection off", "the client left during the TLS handshake"},
    ),
    "garbage": (lambda client: client.sendall(b"\xff" * 2000), {"the TLS handshake failed"}),
    "plain HTTP": (lambda client: client.sendall(b"GET / HTTP/1.1\r\n\r\n"), {"the TLS handshake failed"}),
    "a flood": (flood, {"the TLS handshake failed", "the client left during the TLS handshake"}),
}


@pytest.mark.parametrize(("act", "outcomes"), RUDE.values(), ids=RUDE)
def test_a_rude_client_is_closed_and_others_are_served(
    refuser: Refuser, act: Callable[[socket.socket], None], outcomes: set[str]
) -> None:
    """Whatever comes instead of a handshake ends at the deadline at the latest, with a reason, and harms nobody."""
    refuser.allowance_s = SHORT_S
    with refuser.connect() as client:
        act(client)
        assert refuser.outcome() in outcomes

    refuser.allowance_s = PATIENCE_S
    with refuser.connect_tls() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: denied.test\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 403")


def test_a_silent_client_after_the_handshake_is_closed(refuser: Refuser) -> None:
    """A server-first protocol inside TLS waits for a greeting that never comes, and no longer than the deadline."""
    refuser.allowance_s = 1.0
    with refuser.connect_tls("http/1.1") as client:
        assert refuser.outcome() == "no request came in time"
        assert client.recv(1) == b""


def test_a_hello_byte_by_byte_is_read(refuser: Refuser) -> None:
    """How the bytes are cut makes no difference."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = refuser.client_context().wrap_bio(incoming, outgoing, server_hostname=NAME)
    with refuser.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    client.sendall(bytes([byte]))
                incoming.write(client.recv(4096))
        tls.write(b"GET / HTTP/1.1\r\nHost: denied.test\r\n\r\n")
        client.sendall(outgoing.read())
        while data := client.recv(4096):
            incoming.write(data)

    assert tls.read(4096).startswith(b"HTTP/1.1 403 ")
    assert refuser.outcome() is None


class Http2Client:
    """An HTTP/2 client that keeps what it got."""

    def __init__(self, sock: ssl.SSLSocket, settings: dict[SettingCodes, int] | None = None) -> None:
        self.sock = sock
        self.connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.connection.local_settings = Settings(client=True, initial_values=settings)
        self.connection.initiate_connection()
        self.events: list[Event] = []

    def request(self, path: str = "/", *, end_stream: bool = True) -> int:
        """Send a request; the stream's number."""
        stream_id = self.connection.get_next_available_stream_id()
        fields = [(":method", "GET"), (":path", path), (":authority", NAME), (":scheme", "https")]
        self.connection.send_headers(stream_id, fields, end_stream=end_stream)
        return stream_id

    def flush(self) -> None:
        """Send what is queued."""
        self.sock.sendall(self.connection.data_to_send())

    def read_until(self, kind: type[Event]) -> None:
        """Collect events up to one of that kind, or the end."""
        while not any(isinstance(event, kind) for event in self.events):
            data = self.sock.recv(65536)
            if not data:
                return
            self.events += self.connection.receive_data(data)
            self.flush()


def test_a_closed_window_delays_the_body_and_nothing_else(refuser: Refuser) -> None:
    """A client without room for the body gets the headers, and the body once it has made room."""
    with refuser.connect_tls("h2") as sock:
        client = Http2Client(sock, {SettingCodes.INITIAL_WINDOW_SIZE: 0})
        stream_id = client.request()
        client.flush()
        client.read_until(ResponseReceived)
        assert not any(isinstance(event, DataReceived) for event in client.events)

        client.connection.increment_flow_control_window(10_000, stream_id)
        client.flush()
        client.read_until(StreamEnded)

    body = b"".join(event.data or b"" for event in client.events if isinstance(event, DataReceived))
    assert body.endswith(f"Event {REFUSAL.event}.\n".encode())
    assert refuser.outcome() is None


def test_a_client_that_reads_only_after_its_upload_gets_the_answer(refuser: Refuser) -> None:
    """An upload over HTTP/2 beyond the first window is taken and dropped, so that such a client comes to reading."""
    size = 1_000_000
    with refuser.connect_tls("h2") as sock:
        client = Http2Client(sock)
        stream_id = client.request(end_stream=False)
        client.flush()
        while size:
            room = min(client.connection.local_flow_control_window(stream_id), 16_384, size)
            if not room:
                client.events += client.connection.receive_data(sock.recv(65536))
            client.connection.send_data(stream_id, bytes(room), end_stream=room == size)
            client.flush()
            size -= room
        client.read_until(StreamEnded)

    assert any(isinstance(event, ResponseReceived) for event in client.events)
    assert refuser.outcome() is None


def test_a_window_that_never_opens_ends_at_the_deadline(refuser: Refuser) -> None:
    """A client that never takes the body is closed."""
    refuser.allowance_s = 1.0
    with refuser.connect_tls("h2") as sock:
        client = Http2Client(sock, {SettingCodes.INITIAL_WINDOW_SIZE: 0})
        client.request()
        client.flush()

        assert refuser.outcome() == "no request came in time"


def test_one_connection_has_so_many_answers_and_no_more(refuser: Refuser, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit the server says GOAWAY, in order."""
    monkeypatch.setattr(tls_answers, "STREAMS_MAX", 3)
    with refuser.connect_tls("h2") as sock:
        client = Http2Client(sock)
        client.flush()
        for _ in range(3):
            client.request()
        client.flush()
        client.read_until(ConnectionTerminated)

    assert sum(isinstance(event, ResponseReceived) for event in client.events) == 3
    assert any(isinstance(event, ConnectionTerminated) and event.error_code == 0 for event in client.events)
    assert refuser.outcome() is None


def ping_for_ever(client: Http2Client) -> None:
    """Send PING after PING."""
    for _ in range(50_000):
        client.connection.ping(b"01234567")
        client.flush()


def break_the_frames(client: Http2Client) -> None:
    """Send a frame that no stream has."""
    client.sock.sendall(b"\x00\x00\x01\x00\x00\x00\x00\x00\x07x" * 10)


def header_bomb(client: Http2Client) -> None:
    """Send headers that decode to more than the server takes."""
    fields = [(":method", "GET"), (":path", "/"), (":authority", NAME), (":scheme", "https")]
    client.connection.send_headers(1, [*fields, *[("x-a", "b" * 4000)] * 40], end_stream=True)
    client.flush()


ABUSES = {"a flood of PING": ping_for_ever, "frames out of order": break_the_frames, "a header bomb": header_bomb}


@pytest.mark.parametrize("abuse", ABUSES.values(), ids=ABUSES)
def test_abuse_of_http2_ends_the_connection(refuser: Refuser, abuse: Callable[[Http2Client], None]) -> None:
    """Frames without a request get no answer and end by a limit, long before the deadline of the connection."""
    with refuser.connect_tls("h2") as sock:
        client = Http2Client(sock)
        try:
            client.flush()
            abuse(client)
        except OSError:
            pass  # the server has closed: that is what is asserted

        assert refuser.outcome() is not None


@needs_curl
def test_plain_http_is_refused_alike(refuser: Refuser) -> None:
    """Over plain HTTP the same answer comes, and the connection ends."""
    refuser.over_tls = False
    run = curl(refuser, scheme="http")

    assert run.returncode == 0
    assert run.stdout.startswith("HTTP/1.1 403 Forbidden by sbx policy")
    assert "connection: close" in run.stdout


def test_a_plain_upload_is_answered_and_not_reset(refuser: Refuser) -> None:
    """A client that writes its whole body before it reads still gets the answer."""
    refuser.over_tls = False
    with refuser.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: denied.test\r\nContent-Length: 5000000\r\n\r\n" + bytes(5_000_000))
        received = b"".join(iter(lambda: client.recv(4096), b""))

    assert received.startswith(b"HTTP/1.1 403 ")
    assert received.endswith(f"Event {REFUSAL.event}.\n".encode())
