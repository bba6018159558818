"""The host's own place in the range: its services, and a proxy as somebody would write it who has not read this code.

One JSON object a line: in `{"do": "seen"}`, out the list of what its services saw: `house tcp PORT`, `house udp PORT`.
The proxy is the control: whatever is written to it, it looks for something like a host in it, and dials that.
"""

from __future__ import annotations

import json
import queue
import re
import select
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Final

SERVICES: Final = (22, 80, 2375, 8099, 11434)
PROXY_PORT: Final = 3128


def main() -> None:
    """Take over the resolver's configuration and the links, then answer until the end of standard input."""
    given = json.loads(sys.stdin.readline())
    subprocess.run(["mount", "--bind", given["resolv_conf"], "/etc/resolv.conf"], check=True)
    for command in given["commands"]:
        subprocess.run(command.split(), check=True)
    streams = [
        socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64) for port in SERVICES
    ]
    datagrams = []
    for port in SERVICES:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", port))
        datagrams.append(sock)
    for sock in datagrams:
        sock.settimeout(0)
    heard: queue.SimpleQueue[str] = queue.SimpleQueue()
    for sock in streams:
        threading.Thread(target=_hear, args=(sock, heard), daemon=True).start()
    proxy = socket.create_server(("127.0.0.1", PROXY_PORT), backlog=64)
    threading.Thread(target=_accept, args=(proxy,), daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        sys.stdout.write(json.dumps(_seen(heard, datagrams)) + "\n")
        sys.stdout.flush()


def _hear(listener: socket.socket, heard: queue.SimpleQueue[str]) -> None:
    while True:
        sock, _ = listener.accept()
        heard.put(f"house tcp {listener.getsockname()[1]}")
        sock.close()


def _seen(heard: queue.SimpleQueue[str], datagrams: list[socket.socket]) -> list[str]:
    found = []
    with suppress(queue.Empty):
        while True:
            found.append(heard.get_nowait())
    for sock in datagrams:
        with suppress(BlockingIOError):
            while True:
                sock.recv(4096)
                found.append(f"house udp {sock.getsockname()[1]}")
    return found


def _accept(listener: socket.socket) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_serve, args=(sock,), daemon=True).start()


def _serve(sock: socket.socket) -> None:
    with sock, suppress(OSError, ValueError):
        sock.settimeout(10)
        head = b""
        while b"\n\r\n" not in head and b"\n\n" not in head:
            data = sock.recv(65536)
            if not data:
                break
            head += data
        method, _, rest = head.decode("utf-8", "replace").replace("\x00", "\0").lstrip("\r\n").partition(" ")
        is_tunnel = method.strip().upper() == "CONNECT"
        with socket.create_connection(_naive_target(rest, is_tunnel=is_tunnel), 5) as far:
            if is_tunnel:
                sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                far.sendall(head)
            _relay(sock, far)


def _naive_target(rest: str, *, is_tunnel: bool) -> tuple[str, int]:
    """Read a host and a port as generously as programs do: decode, unquote, strip, cut at a zero byte."""
    authority = rest.split("\n", maxsplit=1)[0].strip()
    authority = re.sub(r"\s+HTTP/\S*$", "", authority)
    authority = re.sub(r"^\w+:/*", "", authority) if "//" in authority else authority
    authority = re.split(r"[/?#\\]", authority)[0].rpartition("@")[2]
    authority = re.sub(r"%([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), authority).split("\0")[0]
    host, _, port = authority.rpartition(":") if re.search(r":[^:\]]*$", authority) else (authority, "", "")
    host = host.strip("[] \t\u00a0\u3000.").lower()
    return host, int(port.strip() or (443 if is_tunnel else 80))


def _relay(one: socket.socket, other: socket.socket) -> None:
    while True:
        ready = select.select([one, other], [], [], 10)[0]
        if not ready:
            return
        for sock in ready:
            data = sock.recv(65536)
            if not data:
                return
            (other if sock is one else one).sendall(data)


if __name__ == "__main__":
    main()
