"""The whole path of a connection under changed openings, with two independent judges at the far end.

Egress is the real one, on loopback sockets, in front of an internet of four places. Whatever is sent:

1. Every connection ends, and egress goes on.
2. Only `good.test` and `203.0.113.9`, which the policy allows, are ever looked up or dialled.
3. What arrives there says nothing else in the eyes of OpenSSL (the server name) and of Python's HTTP server (`Host`).
4. Each dial has a permission on record before it, and each connection one decision and one end.
"""

from __future__ import annotations

import argparse
import random
import re
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from typing import Final

from sandhold.egress.certificates import Authority
from sandhold.model.destination import parse_host
from sandhold.model.event import Closed, Connection, Request
from tests.fuzz.engine import BrokenError, mutate
from tests.simulators import EgressSimulation, FarEnd, Internet, policy, read_all
from tests.unit.wire import peers

GOOD: Final = "good.test"
GOOD_ADDRESS: Final = "203.0.113.9"
ALLOWED_NAMES: Final = frozenset({GOOD, GOOD_ADDRESS})
ALLOWED_PLACES: Final = frozenset({"203.0.113.1", GOOD_ADDRESS})
PORTS: Final = (22, 80, 443, 8080)
DIALLED: Final = (GOOD, GOOD, GOOD, "bad.test", "other.test", GOOD_ADDRESS, "203.0.113.50")
PER_EGRESS: Final = 400  # then a new one: the simulators remember everything
AT_ONCE: Final = 8
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
END_S_MAX: Final = 20.0

NAMES: Final = (GOOD, "bad.test", "other.test")
OPENINGS: Final = (
    *(peers.openssl_hello(name) for name in (*NAMES, None)),
    *(peers.records(peers.handshake(peers.hello_body(peers.server_name(name.encode())))) for name in NAMES),
    *(b"GET /a HTTP/1.1\r\nHost: %s\r\n\r\n" % name.encode() for name in NAMES),
    *(b"GET http://%s/a HTTP/1.1\r\nHost: %s\r\n\r\n" % (name.encode(), name.encode()) for name in NAMES),
    *(b"CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n" % (name.encode(), name.encode()) for name in NAMES),
    b"POST /up HTTP/1.1\r\nHost: good.test\r\nContent-Length: 4\r\n\r\nbodyGET / HTTP/1.1\r\nHost: bad.test\r\n\r\n",
    b"POST /up HTTP/1.1\r\nHost: good.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    b"GET / HTTP/1.1\r\nHost: bad.test\r\n\r\n",
    b"CONNECT good.test:443 HTTP/1.1\r\n\r\n" + peers.openssl_hello("bad.test"),
    b"CONNECT good.test:80 HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nHost: bad.test\r\n\r\n",
    peers.HTTP2_PREFACE, peers.OPENSSH, peers.POSTGRES_TLS, peers.REDIS, b"\0opaque", b"",
)  # fmt: skip
WORDS: Final = (
    *(name.encode() for name in NAMES), b"Host: ", b"Host: bad.test\r\n", b"\r\nHost:", b"http://", b"HTTP/1.1",
    b"HTTP/1.0", b"CONNECT ", b"GET / ", b"Content-Length: 4\r\n", b"Content-Length: 0\r\n", b"\r\n\r\n", b"@",
    b"Transfer-Encoding: chunked\r\n", b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b"Expect: 100-continue\r\n",
    b"Connection: close\r\n", b"localhost", b"127.0.0.1", b"169.254.169.254", b"\x16\x03\x01", b"\x00\x00",
    b"0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: bad.test\r\n\r\n",
)  # fmt: skip
_REQUEST_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [^\x00-\x1f\x7f]+\r?\n")


@dataclass(slots=True)
class Tally:
    """What a run came to."""

    connections: int = 0
    dials: int = 0
    heard: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        kinds = dict(self.kinds)
        return f"{self.connections} connections, {self.dials} dials, {self.heard} judged at the far end; {kinds}"


def fuzz_connections(seed: int, connections: int, seconds: float = float("inf")) -> Tally:
    """Send so many changed openings, or for so many seconds.

    Raises:
        BrokenError: when a rule above is broken; the text has the openings of the batch.
    """
    chance = random.Random(f"{seed} connections")
    tally = Tally()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority.load_or_create(Path(folder) / "authority")
        judge = Judge(authority)
        while tally.connections < connections and time.monotonic() - begun < seconds:
            _one_egress(chance, authority, judge, min(PER_EGRESS, connections - tally.connections), tally)
    return tally


class Judge:
    """Says for whom bytes are in the eyes of programs that we did not write."""

    def __init__(self, authority: Authority) -> None:
        self._named: list[str | None] = []
        self._context = authority.context_for(parse_host(GOOD))
        self._context.sni_callback = self._note

    def names(self, data: bytes) -> list[str | None]:
        """Return every name found; None stands for TLS that names nobody."""
        return self._tls_names(data) if data[:2] == b"\x16\x03" else list(self._http_names(data))

    def _tls_names(self, data: bytes) -> list[str | None]:
        self._named = []
        incoming = ssl.MemoryBIO()
        incoming.write(data)
        session = self._context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
        with suppress(ssl.SSLError):
            session.do_handshake()
        return self._named

    def _note(self, _: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        self._named.append(name)

    def _http_names(self, data: bytes) -> list[str]:
        names: list[str] = []
        rest = BytesIO(data)
        while True:
            request = _Parsed(rest)
            if not request.is_request:
                return names
            names += [_bare(each) for each in request.headers.get_all("host", [])]
            if request.path.lower().startswith("http://"):
                names.append(_bare(request.path[7:].partition("/")[0]))
            if request.headers.get("transfer-encoding"):
                return names  # what follows its end was forwarded for itself, or not at all
            rest.read(int(request.headers.get("content-length", "0")))


class _Parsed(BaseHTTPRequestHandler):
    """One request as Python's own HTTP server reads it."""

    def __init__(self, rfile: BytesIO) -> None:
        self.rfile = rfile
        self.wfile = BytesIO()
        self.raw_requestline = rfile.readline(65537)
        # It takes any bytes. A method that is no token, and control bytes in the line, are no HTTP to other servers.
        is_http = _REQUEST_LINE.fullmatch(self.raw_requestline) is not None
        self.is_request = is_http and self.parse_request() and hasattr(self, "headers")

    def send_error(self, *_: object) -> None:
        """Say nothing: what it refuses is no request to it."""


def _bare(authority: str) -> str:
    return authority.strip().lower().rpartition("@")[2].partition(":")[0].removesuffix(".")


def _one_egress(chance: random.Random, authority: Authority, judge: Judge, count: int, tally: Tally) -> None:
    internet = Internet()
    sent: list[tuple[str, int, bytes]] = []
    heard: list[tuple[str, bytes]] = []
    with ExitStack() as stack:
        for name, address in ((GOOD, "203.0.113.1"), ("bad.test", "203.0.113.2"), ("other.test", "203.0.113.3")):
            end = _far_end(stack, name, heard)
            internet.host(name, address, dict.fromkeys(PORTS, end))
        internet.host("address", GOOD_ADDRESS, dict.fromkeys(PORTS, _far_end(stack, GOOD_ADDRESS, heard)))
        index = policy("allow good.test:*", "deny bad.test", f"allow {GOOD_ADDRESS}:*")
        with EgressSimulation(index, authority, internet) as egress:
            addresses = {name: str(egress.resolve(name)) for name in ("bad.test", "other.test", GOOD)}
            try:
                for _ in range(0, count, AT_ONCE):
                    _send_some(chance, egress, addresses, sent, tally)
                assert egress.is_running(), "egress ended"
            except (AssertionError, OSError) as error:
                raise BrokenError(f"{error!r} after {sent[-AT_ONCE:]!r}") from error
    _judge(egress, internet, heard, judge)  # every far end has heard its last by now
    tally.dials += len(internet.dials)
    tally.heard += len(heard)


def _far_end(stack: ExitStack, name: str, heard: list[tuple[str, bytes]]) -> FarEnd:
    def talk(_: FarEnd, sock: socket.socket) -> None:
        data = sock.recv(65536)
        with suppress(OSError):
            sock.sendall(ANSWER)
            while more := sock.recv(65536):
                data += more
        heard.append((name, data))

    end = FarEnd(talk)
    stack.callback(end.close)
    return end


def _send_some(
    chance: random.Random,
    egress: EgressSimulation,
    addresses: dict[str, str],
    sent: list[tuple[str, int, bytes]],
    tally: Tally,
) -> None:
    """Send a few openings side by side, each in pieces, and read each to its end."""
    threads = []
    kinds: list[str] = []
    for _ in range(AT_ONCE):
        name = chance.choice((*DIALLED, "proxy", "proxy"))
        port = chance.choice(PORTS)
        data = mutate(chance, OPENINGS, WORDS) if chance.random() < 0.95 else chance.choice(OPENINGS)
        sent.append((name, port, data))
        sock = egress.dial_proxy() if name == "proxy" else egress.dial(addresses.get(name, name), port)
        cut = chance.randrange(len(data) + 1)
        thread = threading.Thread(target=_converse, args=(sock, data, cut, kinds), daemon=True)
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join(END_S_MAX)
        assert not thread.is_alive(), "a connection did not end"
    assert len(kinds) == AT_ONCE, "a connection did not end"
    tally.connections += AT_ONCE
    tally.kinds.update(kinds)


def _converse(sock: socket.socket, data: bytes, cut: int, kinds: list[str]) -> None:
    try:
        with sock:
            sock.sendall(data[:cut])
            sock.sendall(data[cut:])
            sock.shutdown(socket.SHUT_WR)
            kinds.append(_kind(read_all(sock)))
    except (ConnectionError, BrokenPipeError):
        kinds.append("reset")
    except OSError as error:
        if not isinstance(error, TimeoutError):
            kinds.append("reset")  # the reset came between two of our calls


def _kind(answer: bytes) -> str:
    if not answer:
        return "nothing"
    if answer.startswith(b"HTTP/1.1 "):
        return answer[9:12].decode("ascii", "replace")
    return "tls" if answer[0] in (0x15, 0x16) else "other"


def _judge(egress: EgressSimulation, internet: Internet, heard: list[tuple[str, bytes]], judge: Judge) -> None:
    """Rules 2 to 4, once everything has ended."""
    problems = [f"{place} was dialled" for place in internet.dials if place[0] not in ALLOWED_PLACES]
    problems += [f"{name} was looked up" for name in internet.lookups if name != GOOD]
    for at, data in heard:
        names = judge.names(data)
        if any(each is None and at == GOOD for each in names) or any(
            each is not None and _bare(each) not in ALLOWED_NAMES for each in names
        ):
            problems.append(f"{at} heard {data!r}, which is for {names}")
    decided = Counter(each.event for each in egress.trail.of(Connection))
    ended = Counter(each.event for each in egress.trail.of(Closed))
    problems += [f"{event} has {count} decisions" for event, count in decided.items() if ended[event] != 1]
    decisions = [each.decision for each in egress.trail.of(Connection)]
    decisions += [each.decision for each in egress.trail.of(Request)]
    permitted = sum(decision.is_allowed for decision in decisions)
    if len(internet.dials) > permitted:
        problems.append(f"{len(internet.dials)} dials, {permitted} permissions")
    if problems:
        raise BrokenError("; ".join(problems[:5]))


def main() -> int:
    """Fuzz for as long as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz-connections", description="Send changed openings through egress."
    )
    parser.add_argument("connections", type=int)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")
    sys.stdout.flush()
    try:
        sys.stdout.write(f"{fuzz_connections(seed, given.connections, given.minutes * 60)}\n")
    except BrokenError as error:
        sys.stdout.write(f"FAILED: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
