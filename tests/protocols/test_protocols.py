"""What people's programs speak passes through egress unharmed, asked by their own clients from inside a sandbox."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING

import pytest

from tests.protocols.conftest import KINDS, SANDBOX
from tests.protocols.http1 import BODY_BLOCKS, BODY_DIGEST
from tests.protocols.http2 import PAGE

if TYPE_CHECKING:
    import subprocess

    from tests.protocols.conftest import Kind, Lab

EVENT_S_MAX = 60.0
SCHEMES = {"plain": "http", "tls": "https"}
CURL = "curl -sS --fail-with-body --max-time 240"
PYTHON = "~/clients/bin/python"
MAKE_BODY = (
    f"python3 -c 'import sys; [sys.stdout.buffer.write(bytes(range(256)) * 4096) for _ in range({BODY_BLOCKS})]'"
)

WEBSOCKET = """
import sys
from websockets.sync.client import connect
with connect(sys.argv[1], max_size=None) as socket:
    socket.send("one")
    assert socket.recv(60) == "one"
    large = bytes(range(256)) * 8192
    socket.send(large)
    assert socket.recv(60) == large
    assert socket.ping().wait(60)
print(socket.close_code)
"""
GRPC = """
import sys, grpc
place, kind = sys.argv[1:]
trusted = grpc.ssl_channel_credentials()
with grpc.insecure_channel(place) if kind == "plain" else grpc.secure_channel(place, trusted) as channel:
    large = bytes(range(256)) * 8192
    assert channel.unary_unary("/sample.Echo/One")(large, timeout=60) == large
    words = [b"one", b"two", b"three"]
    assert list(channel.stream_stream("/sample.Echo/Many")(iter(words), timeout=60)) == words
print("echoed")
"""

REFUSED_WEBSOCKET = """
import sys
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
try:
    connect(sys.argv[1])
except InvalidStatus as error:
    print(error.response.status_code, error.response.headers["x-sbx-decision"])
"""
REFUSED_GRPC = """
import grpc
with grpc.secure_channel("denied.test:443", grpc.ssl_channel_credentials()) as channel:
    try:
        channel.unary_unary("/sample.Echo/One")(b"", timeout=60)
    except grpc.RpcError as error:
        print(error.code().name, error.details())
"""


def read_until(process: subprocess.Popen[str], ending: str) -> str:
    """Read a program's output until a text comes."""
    assert process.stdout is not None
    fd, said, deadline = process.stdout.fileno(), "", time.monotonic() + EVENT_S_MAX
    while ending not in said:
        assert select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0], f"only {said!r} came"
        data = os.read(fd, 4096)
        assert data, f"ended after {said!r}"
        said += data.decode()
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_events_come_as_they_are_sent(lab: Lab, kind: Kind) -> None:
    """The first of two server-sent events arrives while the server still waits to send the second."""
    server = lab.http1[kind]
    url = f"{SCHEMES[kind]}://{lab.place(server)}/events"
    with lab.sbx.start("exec", SANDBOX, "curl", "-sSN", "--max-time", "240", url) as process:
        first = read_until(process, "first")
        assert "second" not in first
        assert not server.second.is_set()
        server.second.set()
        assert "data: second" in read_until(process, "second")
        assert process.wait(EVENT_S_MAX) == 0
    server.second.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_download(lab: Lab, kind: Kind) -> None:
    """200 MB come down whole."""
    url = f"{SCHEMES[kind]}://{lab.place(lab.http1[kind])}/body"
    assert lab.run(f"set -o pipefail; {CURL} {url} | sha256sum").out.split()[:1] == [BODY_DIGEST]


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_upload(lab: Lab, kind: Kind) -> None:
    """200 MB go up whole."""
    url = f"{SCHEMES[kind]}://{lab.place(lab.http1[kind])}/body"
    said = lab.run(f"{MAKE_BODY} > ~/body && {CURL} -T ~/body {url}; rm -f ~/body")
    assert said.out == BODY_DIGEST, said


HTTP2 = {"over TLS": ("tls", "--http2"), "with prior knowledge": ("plain", "--http2-prior-knowledge")}


@pytest.mark.parametrize(("kind", "flag"), HTTP2.values(), ids=HTTP2)
def test_http2(lab: Lab, kind: Kind, flag: str) -> None:
    """An HTTP/2 server is reached in HTTP/2."""
    url = f"{SCHEMES[kind]}://{lab.place(lab.http2[kind])}/"
    said = lab.run(f"{CURL} {flag} -w ' %{{http_version}}' {url}")
    assert said.out == f"{PAGE.decode()} 2", said


@pytest.fixture(scope="module")
def clients(lab: Lab) -> Lab:
    """Install the clients that the template lacks."""
    done = lab.run("python3 -m venv ~/clients && ~/clients/bin/pip install -q websockets grpcio")
    assert done.status == 0, done
    return lab


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_websocket(clients: Lab, kind: Kind) -> None:
    """A WebSocket is opened, carries text, 2 MB and a ping both ways, and is closed in order."""
    scheme = {"plain": "ws", "tls": "wss"}[kind]
    said = clients.run(f"{PYTHON} -c '{WEBSOCKET}' {scheme}://{clients.place(clients.http1[kind])}/socket")
    assert said.out == "1000\n", said


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_grpc(clients: Lab, kind: Kind) -> None:
    """A gRPC call with 2 MB, and one whose messages stream both ways, get their answers and their trailers."""
    said = clients.run(f"{PYTHON} -c '{GRPC}' {clients.place(clients.http2[kind])} {kind}")
    assert said.out == "echoed\n", said


REFUSED = {"plain": "ws://denied.test/socket", "tls": "wss://denied.test/socket"}


@pytest.mark.long
@pytest.mark.parametrize("url", REFUSED.values(), ids=REFUSED)
def test_a_refused_websocket(clients: Lab, url: str) -> None:
    """A client that asks for a WebSocket reads the refusal."""
    said = clients.run(f"{PYTHON} -c '{REFUSED_WEBSOCKET}' {url}")
    assert said.out == "403 denied\n", said


@pytest.mark.long
def test_a_refused_grpc_call(clients: Lab) -> None:
    """A gRPC client reads the refusal as what a 403 means in gRPC, at once and without a word about certificates."""
    said = clients.run(f"{PYTHON} -c '{REFUSED_GRPC}'")
    assert said.out.startswith("PERMISSION_DENIED"), said
    assert "403" in said.out
