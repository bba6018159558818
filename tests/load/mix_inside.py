"""Runs inside the sandbox: an endless, gentle mix of everything a program does with a network.

`python3 mix_inside.py ORDERS` where ORDERS is JSON: `clients`, for each the ports by name; `pace_s` between two steps;
`seen`, the file in the workspace that says what came of it, a JSON line each. It ends when the file `stop` beside that
is there. Imports nothing but the standard library: the sandbox has no other.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import struct
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Ports = dict[str, int]

ORDERS = json.loads(sys.argv[1])
HOST = "host.docker.internal"
PATIENCE_S = 30.0
NAMES = 40  # each name has a synthetic address and a record of its own for the whole session, so there are so many
OPAQUE = b"\0opaque"  # no opening of anything that egress knows
RESET = struct.pack("ii", 1, 0)  # struct linger (socket(7)): closing resets


def _say(**what: object) -> None:
    with Path(ORDERS["seen"]).open("a", encoding="ascii") as file:
        file.write(json.dumps(what) + "\n")


def _dial(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), PATIENCE_S)


def _read_all(sock: socket.socket) -> bytes:
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


def _request(host: str, how: str) -> bytes:
    return f"GET /{time.time_ns()} HTTP/1.1\r\nHost: {host}\r\nConnection: {how}\r\n\r\n".encode()


def _event_of(answer: bytes) -> str | None:
    for line in answer.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"x-sbx-event":
            return value.strip().decode()
    return None


def _any_signer() -> ssl.SSLContext:
    """Who signs is not what is tried here."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def allowed_http(ports: Ports, _: int) -> str | None:
    """Three requests on one connection, each answered."""
    with _dial(HOST, ports["http"]) as sock:
        for turn in range(3):
            sock.sendall(_request(f"{HOST}:{ports['http']}", "close" if turn == 2 else "keep-alive"))
            answer = b""
            while not answer.endswith(b"hello"):
                data = sock.recv(4096)
                if not data:
                    return f"ended after {answer!r}"
                answer += data
    return None


def denied_http(_: Ports, turn: int) -> str | None:
    """A refusal that names its event."""
    host = f"denied{turn % NAMES}.test"
    with _dial(host, 80) as sock:
        sock.sendall(_request(host, "close"))
        event = _event_of(_read_all(sock))
    if event is None:
        return "no refusal"
    _say(refused=event)
    return None


def denied_tls(_: Ports, turn: int) -> str | None:
    """A refusal over TLS that names its event."""
    host = f"denied{turn % NAMES}.test"
    context = _any_signer()
    with _dial(host, 443) as sock, context.wrap_socket(sock, server_hostname=host) as tls:
        tls.sendall(_request(host, "close"))
        event = _event_of(_read_all(tls))
    if event is None:
        return "no refusal"
    _say(refused=event)
    return None


def allowed_tls(ports: Ports, turn: int) -> str | None:
    """TLS to the far end, passed through."""
    context = _any_signer()
    with _dial(HOST, ports["tls"]) as sock, context.wrap_socket(sock, server_hostname=HOST) as tls:
        text = b"%d" % turn * 1000
        tls.sendall(text)
        got = b""
        while len(got) < len(text):
            data = tls.recv(65536)
            if not data:
                return "ended early"
            got += data
    return None if got == text else "other bytes came back"


def tunnel(ports: Ports, turn: int) -> str | None:
    """256 KiB through a tunnel and back, in order, to a regular end."""
    block = b"\0" + struct.pack(">Q", turn) * 4096
    with _dial(HOST, ports["tunnel"]) as sock:
        got = b""
        for _ in range(8):
            sock.sendall(block)
            while len(got) < len(block):
                data = sock.recv(65536)
                if not data:
                    return "ended early"
                got += data
            if got != block:
                return "other bytes came back"
            got = b""
        sock.shutdown(socket.SHUT_WR)
        _read_all(sock)
    return None


def reset(ports: Ports, _: int) -> None:
    """A tunnel that the client resets in the middle."""
    with _dial(HOST, ports["resets"]) as sock:
        sock.sendall(OPAQUE * 1000)
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def flapping(ports: Ports, _: int) -> str | None:
    """A destination that the policy allows and denies in turns: an echo or a reset, never anything else."""
    try:
        with _dial(HOST, ports["flapping"]) as sock:
            sock.sendall(OPAQUE)
            return None if sock.recv(len(OPAQUE)) in (OPAQUE, b"") else "other bytes came back"
    except ConnectionError:
        return None


def forbidden(ports: Ports, _: int) -> str | None:
    """A destination that no rule allows."""
    try:
        with _dial(HOST, ports["forbidden"]) as sock:
            sock.sendall(OPAQUE)
            if sock.recv(1):
                return "an answer came"
    except ConnectionError:
        pass
    return None


def datagram(*_: object) -> None:
    """UDP, which goes nowhere; the kernel may say so."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(PermissionError):
        sock.sendto(OPAQUE, ("192.0.2.1", 9))


STEPS: tuple[Callable[[Ports, int], str | None], ...] = (
    allowed_http, denied_http, tunnel, flapping, denied_tls, reset, allowed_tls, forbidden, datagram,
)  # fmt: skip


def run(ports: Ports) -> None:
    """Take one step after another until told to stop."""
    stop = Path(ORDERS["seen"]).with_name("stop")
    turn = 0
    while not stop.exists():
        step = STEPS[turn % len(STEPS)]
        try:
            problem = step(ports, turn)
        except (OSError, ssl.SSLError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem is not None:
            _say(step=step.__name__, problem=problem)
        turn += 1
        select.select([], [], [], ORDERS["pace_s"])
    _say(turns=turn)


def main() -> None:
    """Be as many clients as there are orders for."""
    clients = [threading.Thread(target=run, args=(ports,)) for ports in ORDERS["clients"]]
    for client in clients:
        client.start()
    for client in clients:
        client.join()


main()
