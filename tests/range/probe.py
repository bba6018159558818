"""Makes one attempt, in the sandbox or, as the control, on the host; says in a word what came back.

One file with nothing but Python's own library. The words: an HTTP status, `reset`, `closed`, `refused NAME`, `timeout`,
or the start of what was said.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import subprocess
import sys
import threading

PROXY = (sys.argv[1], 3128)
PATIENCE_S = float(sys.argv[2])
KEPT: list[socket.socket] = []


def connect(authority: str, inner: str = "", raw: bytes = b"") -> str:
    """Ask the proxy for a tunnel and, if there is one, for a page over TLS in it under the name `inner`."""
    head = raw or b"CONNECT " + _bytes(authority) + b" HTTP/1.1\r\nHost: " + _bytes(authority) + b"\r\n\r\n"
    with socket.create_connection(PROXY, PATIENCE_S) as sock:
        sock.sendall(head)
        said = answer(sock)
        if said != "200":
            return said
        name = inner or authority.rpartition(":")[0].strip("[]. ").lower()
        return handshake(sock, name)


def tunnel(authority: str, data: bytes) -> str:
    """Ask the proxy for a tunnel and say something else than TLS in it."""
    with socket.create_connection(PROXY, PATIENCE_S) as sock:
        sock.sendall(b"CONNECT " + _bytes(authority) + b" HTTP/1.1\r\nHost: " + _bytes(authority) + b"\r\n\r\n")
        said = answer(sock)
        if said != "200":
            return said
        sock.sendall(data)
        return answer(sock)


def proxied(head: bytes) -> str:
    """Say this to the proxy."""
    with socket.create_connection(PROXY, PATIENCE_S) as sock:
        sock.sendall(head)
        return answer(sock)


def get(url: str, headers: str = "") -> str:
    """Ask the proxy for a page by its whole address."""
    host = url.partition("//")[2].partition("/")[0]
    return proxied(
        b"GET " + _bytes(url) + b" HTTP/1.1\r\n" + (headers.encode() or b"Host: " + _bytes(host) + b"\r\n") + b"\r\n"
    )


def tcp(host: str, port: int, data: bytes = b"hello\r\n") -> str:
    """Connect and say something."""
    with socket.create_connection((host, port), PATIENCE_S) as sock:
        sock.sendall(data)
        return answer(sock)


def http(host: str, port: int, name: str = "", path: str = "/") -> str:
    """Ask for a page in plain HTTP, under another name if given."""
    return tcp(host, port, f"GET {path} HTTP/1.1\r\nHost: {name or host}\r\nConnection: close\r\n\r\n".encode())


def tls(host: str, port: int, name: str | None, request: str = "") -> str:
    """Ask for a page over TLS, under another server name if given, None for none; `request` is its `Host`."""
    with socket.create_connection((host, port), PATIENCE_S) as sock:
        return handshake(sock, name, request)


def handshake(sock: socket.socket, name: str | None, host: str = "") -> str:
    """Speak TLS on a connection, and ask for a page."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(sock, server_hostname=name) as secure:
        secure.sendall(f"GET / HTTP/1.1\r\nHost: {host or name}\r\nConnection: close\r\n\r\n".encode())
        return answer(secure)


def resumed(first: str, host: str, name: str) -> str:
    """Shake hands with one host, and go on with that session at another under a name of one's choice."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # its session is there as soon as the handshake is over
    with (
        socket.create_connection((first, 443), PATIENCE_S) as sock,
        context.wrap_socket(sock, server_hostname=first) as secure,
    ):
        session = secure.session
    assert session is not None
    assert session.has_ticket
    with (
        socket.create_connection((host, 443), PATIENCE_S) as sock,
        context.wrap_socket(sock, server_hostname=name, session=session) as secure,
    ):
        secure.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        return answer(secure)


def late(host: str, port: int, name: str) -> str:
    """Wait for the far end's greeting, and speak TLS under a name of one's choice only then."""
    with socket.create_connection((host, port), PATIENCE_S) as sock:
        said = answer(sock)
        return handshake(sock, name) if said.startswith("220 ") else f"instead of a greeting: {said}"


def in_a_row(first: str, second: str) -> str:
    """Ask the proxy for two pages before the first has come; the statuses of all that come back."""
    with socket.create_connection(PROXY, PATIENCE_S) as sock:
        sock.settimeout(PATIENCE_S)
        sock.sendall(
            b"".join(
                b"GET http://%s/ HTTP/1.1\r\nHost: %s\r\n\r\n" % (each, each)
                for each in (first.encode(), second.encode())
            )
        )
        said = b""
        try:
            while data := sock.recv(65536):
                said += data
                if said.count(b"HTTP/1.1 ") == 2:
                    break
        except (TimeoutError, ConnectionResetError):
            pass
        return " ".join(part[:3].decode() for part in said.split(b"HTTP/1.1 ")[1:]) or "closed"


def hold(host: str, port: int, count: int) -> str:
    """Open connections, as many as there is a way for up to a count, and keep them until `calm()`."""
    opened = 0
    for _ in range(count):
        try:
            KEPT.append(socket.create_connection((host, port), PATIENCE_S))
        except OSError as error:
            return f"held {opened}, then {error.strerror}"
        opened += 1
    return f"held {opened}"


def flood(host: str, port: int, count: int) -> str:
    """Send as much as there is a way for on so many connections, until `calm()`."""
    for _ in range(count):
        sock = socket.create_connection((host, port), PATIENCE_S)
        sock.sendall(b"SINK\n")
        KEPT.append(sock)
        threading.Thread(target=pour, args=(sock,), daemon=True).start()
    return f"flooding on {count}"


def pour(sock: socket.socket) -> None:
    """Send until the connection ends."""
    sock.settimeout(None)
    try:
        while True:
            sock.sendall(bytes(65536))
    except OSError:
        return


def calm() -> str:
    """End what `hold` and `flood` began."""
    while KEPT:
        sock = KEPT.pop()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset: no port waits for it
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()
    return "calm"


def split_hello(host: str, port: int, name: str) -> str:
    """Send a ClientHello byte by byte."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        hello = outgoing.read()
    with socket.create_connection((host, port), PATIENCE_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in hello:
            sock.sendall(bytes([byte]))
        return answer(sock)


def udp(host: str, port: int) -> str:
    """Send a datagram."""
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.sendto(b"out", address)
    return "sent"


def ping(host: str) -> str:
    """Send an ICMP echo by the means there are."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            with socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP) as sock:
                sock.sendto(struct.pack("!BBHHH", 8, 0, 0xF7FF, 0, 0), (host, 0))
                return "sent"
        except PermissionError as error:
            last = error
    raise last


def raw(protocol: int, host: str) -> str:
    """Send a packet of a protocol of one's choice (raw(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as sock:
        sock.sendto(b"out of here", (host, 0))
    return "sent"


def dns(server: str, name: str, kind: int = 1, transport: str = "udp", port: int = 53, wire: bytes = b"") -> str:
    """Put a question to a nameserver; the answer's code and how many records it has."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    question = wire or struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)
    with socket.socket(type=socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect((server, port))
        sock.sendall(struct.pack("!H", len(question)) + question if transport == "tcp" else question)
        reply = sock.recv(4096)[2 * (transport == "tcp") :]
        return f"code {reply[3] & 15} records {reply[7]}"


def sh(script: str, data: bytes = b"") -> str:
    """Run a script of the shell; the last word it says."""
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=60, check=False, input=data)
    words = done.stdout.decode("ascii", "backslashreplace").split()
    return words[-1] if words else f"status {done.returncode}"


def answer(sock: socket.socket) -> str:
    """What comes back first."""
    sock.settimeout(PATIENCE_S)
    data = sock.recv(4096)
    if data.startswith(b"HTTP/"):
        return data.split(b" ", 2)[1].decode()
    return ascii(data[:60])[2:-1] if data else "closed"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8")


def main() -> None:
    """Do what each line of standard input says, an expression of these functions as JSON, and answer with a line."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(attempt(json.loads(line))) + "\n")
        sys.stdout.flush()


def attempt(code: str) -> str:
    """Make one attempt; returns its word."""
    try:
        return str(eval(code))
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "timeout"
    except ssl.SSLError as error:
        return f"tls {error.reason}"
    except OSError as error:
        return f"refused {error.strerror or error}"


if __name__ == "__main__":
    main()
