"""Runs inside the sandbox: an endless, gentle mix of everything a program does with a network.

`python3 mix_inside.py ORDERS` where ORDERS is JSON: the ports by name, `pace_s` between two steps, `seen` the file in
the workspace that says what came of it, a JSON line each; it ends when the file `stop` beside it is there. Imports
nothing but the standard library: the sandbox has no other.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import struct
import sys
import time
from pathlib import Path

ORDERS = json.loads(sys.argv[1])
PORTS = ORDERS["ports"]
HOST = "host.docker.internal"
PATIENCE_S = 30.0
NAMES = 40  # each name has a synthetic address and a record of its own for the whole session, so there are so many
OPAQUE = b"\0opaque"  # no opening of anything that egress knows
RESET = struct.pack("ii", 1, 0)  # struct linger (socket(7)): closing resets


def _say(**what):
    with Path(ORDERS["seen"]).open("a", encoding="ascii") as file:
        file.write(json.dumps(what) + "\n")


def _dial(host, port):
    return socket.create_connection((host, port), PATIENCE_S)


def _read_all(sock):
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


def _request(host, last):
    how = "close" if last else "keep-alive"
    return f"GET /{time.time_ns()} HTTP/1.1\r\nHost: {host}\r\nConnection: {how}\r\n\r\n".encode()


def _event_of(answer):
    for line in answer.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"x-sbx-event":
            return value.strip().decode()
    return None


def allowed_http(_):
    """Three requests on one connection, each answered."""
    with _dial(HOST, PORTS["http"]) as sock:
        for turn in range(3):
            sock.sendall(_request(f"{HOST}:{PORTS['http']}", turn == 2))
            answer = b""
            while not answer.endswith(b"hello"):
                data = sock.recv(4096)
                if not data:
                    return f"ended after {answer!r}"
                answer += data
    return None


def denied_http(turn):
    """A refusal that names its event."""
    host = f"denied{turn % NAMES}.test"
    with _dial(host, 80) as sock:
        sock.sendall(_request(host, True))
        event = _event_of(_read_all(sock))
    if event is None:
        return "no refusal"
    _say(refused=event)
    return None


def denied_tls(turn):
    """A refusal over TLS that names its event."""
    host = f"denied{turn % NAMES}.test"
    context = ssl._create_unverified_context()  # who signs is not what is tried here
    with _dial(host, 443) as sock, context.wrap_socket(sock, server_hostname=host) as tls:
        tls.sendall(_request(host, True))
        event = _event_of(_read_all(tls))
    if event is None:
        return "no refusal"
    _say(refused=event)
    return None


def allowed_tls(turn):
    """TLS to the far end, passed through."""
    context = ssl._create_unverified_context()
    with _dial(HOST, PORTS["tls"]) as sock, context.wrap_socket(sock, server_hostname=HOST) as tls:
        text = b"%d" % turn * 1000
        tls.sendall(text)
        got = b""
        while len(got) < len(text):
            data = tls.recv(65536)
            if not data:
                break
            got += data
    return None if got == text else "other bytes came back"


def tunnel(turn):
    """256 KiB through a tunnel and back, in order, to a regular end."""
    block = b"\0" + struct.pack(">Q", turn) * 4096
    with _dial(HOST, PORTS["tunnel"]) as sock:
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


def reset(_):
    """A tunnel that the client resets in the middle."""
    with _dial(HOST, PORTS["resets"]) as sock:
        sock.sendall(OPAQUE * 1000)
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    return None


def flapping(_):
    """A destination that the policy allows and denies in turns: an echo or a reset, never anything else."""
    try:
        with _dial(HOST, PORTS["flapping"]) as sock:
            sock.sendall(OPAQUE)
            return None if sock.recv(len(OPAQUE)) in (OPAQUE, b"") else "other bytes came back"
    except ConnectionError:
        return None


def forbidden(_):
    """A destination that no rule allows."""
    try:
        with _dial(HOST, PORTS["forbidden"]) as sock:
            sock.sendall(OPAQUE)
            if sock.recv(1):
                return "an answer came"
    except ConnectionError:
        pass
    return None


def datagram(_):
    """UDP, which goes nowhere; the kernel may say so."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(PermissionError):
        sock.sendto(OPAQUE, ("192.0.2.1", 9))
    return None


STEPS = (
    allowed_http, denied_http, tunnel, flapping, denied_tls, reset, allowed_tls, forbidden, datagram,
)  # fmt: skip


def main():
    """Take one step after another until told to stop."""
    seen = Path(ORDERS["seen"])
    turn = 0
    while not (seen.parent / "stop").exists():
        step = STEPS[turn % len(STEPS)]
        try:
            problem = step(turn)
        except (OSError, ssl.SSLError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem is not None:
            _say(step=step.__name__, problem=problem)
        turn += 1
        select.select([], [], [], ORDERS["pace_s"])
    _say(turns=turn)


main()
