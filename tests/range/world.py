"""Everything beyond the host's own links, in a network namespace of its own: every address is here, every port answers.

Names are answered by an authoritative server, every TCP connection by a canary that speaks TLS and HTTP or greets
first, and every packet that arrives on a link is captured. One JSON object a line: in `{"do": "seen"}`, out the
list of what was seen since, a string each: `tcp ADDRESS:PORT`, `udp ADDRESS:PORT`, `dns NAME TYPE`,
`ip PROTOCOL ADDRESS`; and what a canary heard on a connection that may be allowed: `late NAME` for TLS that begins
after its greeting, `second HOST` for a request behind another one, `field NAME` for one that was none of its business.
"""

from __future__ import annotations

import json
import queue
import re
import select
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from sandhold.linux.netns import original_destination

GOOD: Final = "198.51.100.10"
FILES: Final = "198.51.100.20"
EVIL: Final = "198.51.100.66"
CANARY_PORT: Final = 7
GREETING_S: Final = 0.5  # a client that says nothing for so long waits for the far end to speak first
CAPTURE_BYTES: Final = 16 << 20

ZONE: Final = {
    "good.test": [GOOD],
    "a.files.test": [FILES],
    "metadata.allowed.test": ["169.254.169.254"],
    "lan.allowed.test": ["192.168.77.9"],
    "loop.allowed.test": ["127.0.0.1"],
    "zero.allowed.test": ["0.0.0.0"],
    "own.allowed.test": ["11.0.0.2"],
    "mixed.allowed.test": [GOOD, "192.168.77.9"],
    "mapped.allowed.test": ["::ffff:192.168.77.9"],
    "nat64.allowed.test": ["64:ff9b::a9fe:a9fe"],
    "sixtofour.allowed.test": ["2002:c0a8:4d09::1"],
    "shared.allowed.test": [EVIL],
    "moving.allowed.test": ["11.7.0.77"],
    "six.evil.test": ["2001:db8::66"],
}
"""Any other name is the attacker's, so that an attempt that gets as far as a look-up has somewhere to go."""
ALIASES: Final = {"alias.allowed.test": "evil.test.", "circle.allowed.test": "circle.allowed.test."}

RULES: Final = f"""
table inet world {{
  chain arriving {{
    type nat hook prerouting priority dstnat;
    iifname "lo" accept
    meta l4proto {{ tcp, udp }} th dport 53 redirect to :53
    meta l4proto tcp redirect to :{CANARY_PORT}
  }}
}}
"""
SINK: Final = b"SINK\n"  # says that what follows is to be swallowed
REDIRECTED_TO: Final = "http://evil.test:8090/"
_HOST: Final = re.compile(rb"^host:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_PRIVATE: Final = re.compile(rb"^(proxy-[a-z]+):", re.IGNORECASE | re.MULTILINE)
_NOISE: Final = frozenset({133, 134, 135, 136, 143})  # ICMPv6: neighbours and routers, which every link has
_OUTGOING: Final = 4  # packet(7), PACKET_OUTGOING
_SYN_ONLY: Final = 0x02


def main() -> None:
    """Set up once the links are there, then answer until the end of standard input."""
    sys.stdin.readline()
    for command in (
        "ip link set lo up",
        "ip route add local 0.0.0.0/0 dev lo table main",
        "ip -6 route add local ::/0 dev lo table main",
    ):
        subprocess.run(command.split(), check=True)
    subprocess.run(["nft", "-f", "-"], input=RULES.encode(), check=True)
    capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    capture.setsockopt(socket.SOL_SOCKET, 33, CAPTURE_BYTES)  # SO_RCVBUFFORCE
    capture.settimeout(0)
    heard: queue.SimpleQueue[str] = queue.SimpleQueue()
    context = _context()
    listener = socket.create_server(("::", CANARY_PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
    threading.Thread(target=_accept, args=(listener, context, heard), daemon=True).start()
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        datagrams.bind((address, 53))
        threading.Thread(target=_answer_datagrams, args=(datagrams,), daemon=True).start()
    streams = socket.create_server(("::", 53), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=_answer_streams, args=(streams,), daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        sys.stdout.write(json.dumps(_seen(capture, heard)) + "\n")
        sys.stdout.flush()


def _seen(capture: socket.socket, heard: queue.SimpleQueue[str]) -> list[str]:
    found: list[str] = []
    with suppress(queue.Empty):
        while True:
            found.append(heard.get_nowait())
    while True:
        try:
            packet, link = capture.recvfrom(65536)
        except BlockingIOError:
            return found
        if link[0] != "lo" and link[2] != _OUTGOING and (what := _described(packet)) is not None:
            found.append(what)


def _described(packet: bytes) -> str | None:
    if packet[0] >> 4 == 4:
        protocol, target = packet[9], ip_address(packet[16:20])
        payload = packet[(packet[0] & 15) * 4 :]
    elif packet[0] >> 4 == 6:
        protocol, target, payload = packet[6], ip_address(packet[24:40]), packet[40:]
        if protocol == 0:  # hop-by-hop options come with multicast listener reports only
            return None
    else:
        return None
    if (protocol == 58 and payload[0] in _NOISE) or protocol == 2:
        return None
    if protocol in (6, 17):
        (port,) = struct.unpack_from("!H", payload, 2)
        if protocol == 6:
            return f"tcp {target}:{port}" if payload[13] & 0x3F == _SYN_ONLY else None
        return _question(payload[8:]) if port == 53 else f"udp {target}:{port}"
    return f"ip {protocol} {target}"


def _question(payload: bytes) -> str:
    try:
        question = dns.message.from_wire(payload).question[0]
    except (dns.exception.DNSException, IndexError):
        return f"dns {payload!r}"
    return f"dns {question.name.to_text(omit_final_dot=True)} {dns.rdatatype.to_text(question.rdtype)}"


def _answer_datagrams(sock: socket.socket) -> None:
    while True:
        query, client = sock.recvfrom(4096)
        with suppress(dns.exception.DNSException, OSError):
            sock.sendto(_answer(query), client)


def _answer_streams(listener: socket.socket) -> None:
    while True:
        sock, _ = listener.accept()
        with sock, suppress(dns.exception.DNSException, OSError):
            answer = _answer(sock.recv(4096)[2:])
            sock.sendall(len(answer).to_bytes(2) + answer)


def _answer(wire: bytes) -> bytes:
    query = dns.message.from_wire(wire)
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA | dns.flags.RA
    question = query.question[0]
    name = question.name.to_text(omit_final_dot=True).lower()
    if (alias := ALIASES.get(name)) is not None:
        response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "CNAME", alias))
        name = alias.rstrip(".")
    owner = f"{name}."
    for address in ZONE.get(name, [EVIL]):
        kind = "AAAA" if ":" in address else "A"
        if question.rdtype == dns.rdatatype.from_text(kind):
            response.answer.append(dns.rrset.from_text(owner, 60, "IN", kind, address))
    return response.to_wire()


def _accept(listener: socket.socket, context: ssl.SSLContext, heard: queue.SimpleQueue[str]) -> None:
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_talk, args=(sock, context, heard), daemon=True).start()


def _talk(sock: socket.socket, context: ssl.SSLContext, heard: queue.SimpleQueue[str]) -> None:
    with sock, suppress(OSError):
        target, port = original_destination(sock)
        sock.settimeout(10)
        talking: socket.socket = sock
        if not select.select([sock], [], [], GREETING_S)[0]:
            sock.sendall(b"220 world\r\n")
            if sock.recv(1, socket.MSG_PEEK) == b"\x16":
                context = _context()
                context.sni_callback = lambda _, name, __: heard.put(f"late {name}")
        if sock.recv(1, socket.MSG_PEEK) == b"\x16":
            talking = context.wrap_socket(sock, server_side=True)
        with talking:
            said = talking.recv(65536)
            if said.startswith(SINK):
                while talking.recv(65536):
                    continue
            elif said:
                for event in _heard(said):
                    heard.put(event)
                talking.sendall(_page(said, f"{target} {port}\n".encode()))


def _heard(said: bytes) -> list[str]:
    found = [f"second {host.decode('latin-1')}" for host in _HOST.findall(said)[1:] if said.count(b" HTTP/1.") > 1]
    return found + [f"field {name.decode('ascii').lower()}" for name in _PRIVATE.findall(said)]


def _page(said: bytes, body: bytes) -> bytes:
    status = b"302 Found\r\nLocation: " + REDIRECTED_TO.encode() if b" /redirect " in said else b"200 OK"
    return b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body


def _context() -> ssl.SSLContext:
    """Make a certificate for everybody; clients here do not look at it."""
    from cryptography import x509  # noqa: PLC0415 - 100 ms that only this process pays
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key: Any = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "world")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pem"
        path.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            + certificate.public_bytes(pem)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
    return context


if __name__ == "__main__":
    main()
