"""Tries one way out, inside a sandbox; the host runs the same text outside, where it has to work.

One file with nothing but Python's own library: its text is handed to the `python3` that is inside. It says one line,
`tried ...` when it did what it was asked to, `reached ...` when it believes that it got somewhere. Only the second is
believed: the first counts together with what the canary heard and the trail has.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys

ANSWER_BYTES_MAX = 4096
SO_MARK = 36  # asm-generic/socket.h
IP_TRANSPARENT = 19  # linux/in.h
VSOCK_HOST = 2  # vsock(7), VMADDR_CID_HOST
ETHERTYPE_IPV4 = 0x0800


def tcp(address: str, port: str, token: str) -> str:
    """Connect and say the token."""
    return _say(_connect(address, port), token)


def tcp_fast_open(address: str, port: str, token: str) -> str:
    """Send the token with the first packet (tcp(7), TCP_FASTOPEN)."""
    with socket.socket(_family(address), socket.SOCK_STREAM) as sock:
        try:
            sock.sendto(token.encode(), socket.MSG_FASTOPEN, (address, int(port)))
        except BlockingIOError:  # without a cookie of the far end's it is sent once there is a connection (tcp(7))
            select.select([], [sock], [], sock.gettimeout())
            sock.sendall(token.encode())
        return f"answered {sock.recv(ANSWER_BYTES_MAX)[:40]!r}"


def tcp_marked(address: str, port: str, token: str) -> str:
    """Connect with every option that could choose another way: a mark, a device, a foreign source address."""
    with socket.socket(_family(address), socket.SOCK_STREAM) as sock:
        for level, option, value in (
            (socket.SOL_SOCKET, SO_MARK, struct.pack("i", 1)),
            (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0"),
            (socket.SOL_IP, IP_TRANSPARENT, struct.pack("i", 1)),
        ):
            try:
                sock.setsockopt(level, option, value)
            except OSError:
                continue  # refused: go on without
        sock.connect((address, int(port)))
        return _say(sock, token)


def udp(address: str, port: str, token: str) -> str:
    """Send the token in a datagram."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.sendto(token.encode(), (address, int(port)))
        return "sent"


def connect(proxy: str, authority: str, token: str) -> str:
    """Ask the sandbox's own proxy for a tunnel, and say the token in it whatever the answer."""
    host, _, port = proxy.rpartition(":")
    with _connect(host, port) as sock:
        sock.sendall(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % ((_raw(authority),) * 2))
        answer = sock.recv(ANSWER_BYTES_MAX)
        return _say(sock, token) + f" after {answer.splitlines()[:1]!r}"


def request(proxy: str, target: str, token: str) -> str:
    """Ask the sandbox's own proxy for a resource with its whole address, the token in its path."""
    host, _, port = proxy.rpartition(":")
    authority = target.partition("//")[2].partition("/")[0]
    head = b"GET %s/%s HTTP/1.1\r\nHost: %s\r\n\r\n" % (_raw(target), token.encode(), _raw(authority))
    with _connect(host, port) as sock:
        sock.sendall(head)
        return f"answered {sock.recv(ANSWER_BYTES_MAX).splitlines()[:1]!r}"


def http(address: str, port: str, host: str, token: str) -> str:
    """Connect to an address and ask for a host there."""
    with _connect(address, port) as sock:
        sock.sendall(b"GET /%s HTTP/1.1\r\nHost: %s\r\n\r\n" % (token.encode(), host.encode()))
        return f"answered {sock.recv(ANSWER_BYTES_MAX).splitlines()[:1]!r}"


def raw_udp(address: str, port: str, token: str) -> str:
    """Write the datagram oneself, below the protocols that are filtered (raw(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as sock:
        sock.sendto(struct.pack("!HHHH", 4000, int(port), 8 + len(token), 0) + token.encode(), (address, 0))
        return "sent"


def frame(address: str, port: str, token: str) -> str:
    """Write a whole Ethernet frame to each interface (packet(7))."""
    datagram = struct.pack("!HHHH", 4000, int(port), 8 + len(token), 0) + token.encode()
    packet = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0, bytes(4), socket.inet_aton(address)
    )
    for _, name in socket.if_nameindex():
        with socket.socket(17, socket.SOCK_RAW, socket.htons(ETHERTYPE_IPV4)) as sock:
            sock.bind((name, 0))
            sock.send(b"\xff" * 6 + bytes(6) + struct.pack("!H", ETHERTYPE_IPV4) + packet + datagram)
    return "sent"


def ping(address: str) -> str:
    """Send an ICMP echo by the socket that needs no privilege (icmp(7)), else by a raw one."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            with socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP) as sock:
                sock.connect((address, 0))
                sock.send(struct.pack("!BBHHH", 8, 0, 0xF7FE, 0, 1))
                return reached(f"an echo: {sock.recv(100)[:20]!r}")
        except OSError as error:
            last = error
    raise last


def vsock(port: str) -> str:
    """Connect to the machine that runs this one, if it is a virtual machine (vsock(7))."""
    with socket.socket(40, socket.SOCK_STREAM) as sock:
        sock.connect((VSOCK_HOST, int(port)))
        return reached("a connection to the host over vsock")


def unix(path: str, token: str) -> str:
    """Connect to a Unix socket by its path, or by its abstract name (`@name`)."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
        sock.sendall(token.encode())
        return "sent"


def read(path: str) -> str:
    """Read a file and show what is in it."""
    with open(path) as file:  # noqa: PTH123 - one file, for whatever Python is inside
        return file.read(ANSWER_BYTES_MAX)


def write(path: str) -> str:
    """Make a file."""
    with open(path, "x"):  # noqa: PTH123
        return "written"


def dns(server: str, transport: str, kind: str, name: str) -> str:
    """Put a question to a nameserver."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack("!HHHHHH", os.getpid() & 0xFFFF, 0x0100, 1, 0, 0, 0) + labels + b"\0"
    question += struct.pack("!HH", int(kind), 1)
    with socket.socket(_family(server), socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.connect((server, 53))
        sock.sendall(struct.pack("!H", len(question)) + question if transport == "tcp" else question)
        answer = sock.recv(ANSWER_BYTES_MAX)[2 * (transport == "tcp") :]
        return f"answered with code {answer[3] & 15} and {answer[7]} records"


def reached(what: str) -> str:
    """Mark what is believed to be a success."""
    return f"\0{what}"


def main() -> None:
    """Do the attempt that the arguments name, after the patience it has in seconds, and say one line about it."""
    patience_s, name, *arguments = sys.argv[1:]
    socket.setdefaulttimeout(float(patience_s))
    actions = (
        tcp, tcp_fast_open, tcp_marked, udp, connect, request, http,
        raw_udp, frame, ping, vsock, unix, read, write, dns,
    )  # fmt: skip
    try:
        said = {action.__name__: action for action in actions}[name](*arguments)
    except OSError as error:
        said = f"refused: {error.strerror or error}"
    word = "reached" if said.startswith("\0") else "tried"
    sys.stdout.write(f"{word} {ascii(said.lstrip(chr(0)))[1:-1]}\n")


def _connect(address: str, port: str) -> socket.socket:
    sock = socket.socket(_family(address), socket.SOCK_STREAM)
    try:
        sock.connect((address, int(port)))
    except BaseException:
        sock.close()
        raise
    return sock


def _say(sock: socket.socket, token: str) -> str:
    with sock:
        sock.sendall(token.encode() + b"\n")
        return f"answered {sock.recv(ANSWER_BYTES_MAX)[:40]!r}"


def _raw(text: str) -> bytes:
    return text.encode("utf-8").replace(b"%00", b"\0")


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


if __name__ == "__main__":
    main()
